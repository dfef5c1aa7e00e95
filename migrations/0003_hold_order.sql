DROP INDEX "holds_open";--> statement-breakpoint
ALTER TABLE "holds" ADD COLUMN "taken_version" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
CREATE INDEX "holds_open" ON "holds" USING btree ("account_id","agent_id","taken_version","hold_id") WHERE "holds"."state" = 0;