CREATE TABLE "loops" (
	"account_id" uuid NOT NULL,
	"agent_id" text NOT NULL,
	"fingerprint" text NOT NULL,
	"seen" integer NOT NULL,
	"denials" integer NOT NULL,
	"started_ms" bigint NOT NULL,
	"last_ms" bigint NOT NULL,
	"expires_ms" bigint NOT NULL,
	CONSTRAINT "loops_account_id_agent_id_fingerprint_pk" PRIMARY KEY("account_id","agent_id","fingerprint")
);
--> statement-breakpoint
CREATE TABLE "agents" (
	"account_id" uuid NOT NULL,
	"agent_id" text NOT NULL,
	"first_ms" bigint NOT NULL,
	"last_ms" bigint NOT NULL,
	CONSTRAINT "agents_account_id_agent_id_pk" PRIMARY KEY("account_id","agent_id")
);
--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "loop_max_repeats" integer;--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "loop_window_ms" bigint;--> statement-breakpoint
CREATE INDEX "loops_expiry" ON "loops" USING btree ("expires_ms");