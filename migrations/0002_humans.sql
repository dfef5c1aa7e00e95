CREATE TABLE "approvals" (
	"account_id" uuid NOT NULL,
	"approval_id" uuid NOT NULL,
	"token_hash" "bytea" NOT NULL,
	"agent_id" text NOT NULL,
	"action_summary" text NOT NULL,
	"raise_agent_id" text,
	"raise_window" text,
	"raise_kind" text,
	"raise_nanousd" bigint,
	"raise_terms" text,
	"created_ms" bigint NOT NULL,
	"expires_ms" bigint NOT NULL,
	"decision" text,
	"responder" text,
	"decided_ms" bigint,
	CONSTRAINT "approvals_account_id_approval_id_pk" PRIMARY KEY("account_id","approval_id"),
	CONSTRAINT "approvals_token" UNIQUE("token_hash")
);
--> statement-breakpoint
CREATE TABLE "endpoints" (
	"account_id" uuid NOT NULL,
	"endpoint_id" uuid NOT NULL,
	"role" text NOT NULL,
	"kind" text NOT NULL,
	"name" text NOT NULL,
	"target" text NOT NULL,
	"secret" text,
	"event_mask" integer NOT NULL,
	"thresholds" integer[] NOT NULL,
	"enabled" boolean NOT NULL,
	"created_ms" bigint NOT NULL,
	"verified_ms" bigint,
	CONSTRAINT "endpoints_account_id_endpoint_id_pk" PRIMARY KEY("account_id","endpoint_id")
);
--> statement-breakpoint
CREATE TABLE "outbox" (
	"account_id" uuid NOT NULL,
	"endpoint_id" uuid NOT NULL,
	"event_id" uuid NOT NULL,
	"event" text NOT NULL,
	"stream" text NOT NULL,
	"dedup_key" text,
	"body" text NOT NULL,
	"link" text,
	"state" smallint NOT NULL,
	"attempts" integer NOT NULL,
	"at_ms" bigint NOT NULL,
	"due_ms" bigint,
	"expires_ms" bigint,
	"finished_ms" bigint,
	"outcome" text,
	CONSTRAINT "outbox_account_id_event_id_endpoint_id_pk" PRIMARY KEY("account_id","event_id","endpoint_id")
);
--> statement-breakpoint
ALTER TABLE "accounts" ADD COLUMN "event_mask" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "extra_hourly_nanousd" bigint;--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "extra_daily_nanousd" bigint;--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "extra_weekly_nanousd" bigint;--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "extra_monthly_nanousd" bigint;--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "extra_session_nanousd" bigint;--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "extra_clock_ms" bigint;--> statement-breakpoint
CREATE INDEX "approvals_pending" ON "approvals" USING btree ("expires_ms") WHERE "approvals"."decision" is null;--> statement-breakpoint
CREATE INDEX "outbox_due" ON "outbox" USING btree ("due_ms") WHERE "outbox"."state" = 0 and "outbox"."due_ms" is not null;--> statement-breakpoint
CREATE INDEX "outbox_stream" ON "outbox" USING btree ("account_id","endpoint_id","stream","at_ms","event_id") WHERE "outbox"."state" = 0;--> statement-breakpoint
CREATE UNIQUE INDEX "outbox_dedup" ON "outbox" USING btree ("account_id","endpoint_id","dedup_key") WHERE "outbox"."dedup_key" is not null;--> statement-breakpoint
CREATE INDEX "outbox_finished" ON "outbox" USING btree ("finished_ms") WHERE "outbox"."finished_ms" is not null;