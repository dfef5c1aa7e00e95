DROP INDEX "denials_version";--> statement-breakpoint
DROP INDEX "holds_version";--> statement-breakpoint
DROP INDEX "ledger_version";--> statement-breakpoint
CREATE INDEX "denials_version" ON "denials" USING btree ("account_id","version","denial_id") WHERE "denials"."version" >= 0;--> statement-breakpoint
CREATE INDEX "holds_version" ON "holds" USING btree ("account_id","taken_version","hold_id") WHERE "holds"."taken_version" >= 0;--> statement-breakpoint
CREATE INDEX "ledger_version" ON "ledger" USING btree ("account_id","version","entry_id") WHERE "ledger"."version" >= 0;