ALTER TABLE "denials" ADD COLUMN "kind" smallint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "denials" ADD COLUMN "version" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "resets" text;--> statement-breakpoint
ALTER TABLE "envelopes" ADD COLUMN "suspended_ms" bigint;--> statement-breakpoint
ALTER TABLE "holds" ADD COLUMN "detail" text;--> statement-breakpoint
ALTER TABLE "ledger" ADD COLUMN "version" bigint DEFAULT 0 NOT NULL;