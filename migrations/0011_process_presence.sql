CREATE TABLE "processes" (
	"process_id" uuid PRIMARY KEY NOT NULL,
	"since_ms" bigint NOT NULL,
	"seen_ms" bigint NOT NULL
);
--> statement-breakpoint
ALTER TABLE "payment_intents" ADD COLUMN "process_id" uuid;--> statement-breakpoint
ALTER TABLE "idempotent_requests" ADD COLUMN "process_id" uuid;