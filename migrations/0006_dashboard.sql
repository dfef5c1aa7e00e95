CREATE TABLE "sessions" (
	"account_id" uuid NOT NULL,
	"session_id" uuid NOT NULL,
	"token_hash" "bytea" NOT NULL,
	"key_id" uuid NOT NULL,
	"created_ms" bigint NOT NULL,
	"expires_ms" bigint NOT NULL,
	CONSTRAINT "sessions_account_id_session_id_pk" PRIMARY KEY("account_id","session_id"),
	CONSTRAINT "sessions_token" UNIQUE("token_hash")
);
--> statement-breakpoint
ALTER TABLE "accounts" ADD COLUMN "approval_links" text DEFAULT 'agent' NOT NULL;--> statement-breakpoint
ALTER TABLE "approvals" ADD COLUMN "decide_hash" "bytea";--> statement-breakpoint
CREATE INDEX "sessions_expiry" ON "sessions" USING btree ("expires_ms");--> statement-breakpoint
CREATE INDEX "approvals_pending_account" ON "approvals" USING btree ("account_id","approval_id") WHERE "approvals"."decision" is null;--> statement-breakpoint
ALTER TABLE "approvals" ADD CONSTRAINT "approvals_decide_token" UNIQUE("decide_hash");