CREATE TABLE "audit_events" (
	"account_id" uuid NOT NULL,
	"version" bigint NOT NULL,
	"event_id" uuid NOT NULL,
	"type" text NOT NULL,
	"agent_id" text,
	"actor" text NOT NULL,
	"detail" text NOT NULL,
	"at_ms" bigint NOT NULL,
	CONSTRAINT "audit_events_account_id_version_event_id_pk" PRIMARY KEY("account_id","version","event_id")
);
--> statement-breakpoint
CREATE TABLE "audit_seals" (
	"account_id" uuid NOT NULL,
	"first_seq" bigint NOT NULL,
	"last_seq" bigint NOT NULL,
	"last_version" bigint NOT NULL,
	"last_id" uuid NOT NULL,
	"last_rank" smallint NOT NULL,
	"hash" "bytea" NOT NULL,
	"min_ms" bigint NOT NULL,
	"max_ms" bigint NOT NULL,
	"sealed_ms" bigint NOT NULL,
	CONSTRAINT "audit_seals_account_id_first_seq_pk" PRIMARY KEY("account_id","first_seq"),
	CONSTRAINT "audit_seals_not_empty" CHECK ("audit_seals"."last_seq" >= "audit_seals"."first_seq" and length("audit_seals"."hash") = 32)
);
--> statement-breakpoint
CREATE TABLE "leases" (
	"name" text PRIMARY KEY NOT NULL,
	"holder" uuid NOT NULL,
	"until_ms" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "figures" (
	"name" text PRIMARY KEY NOT NULL,
	"value" double precision NOT NULL,
	"at_ms" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "price_lists" (
	"list_id" uuid PRIMARY KEY NOT NULL,
	"source" text NOT NULL,
	"prices" text NOT NULL,
	"created_ms" bigint NOT NULL
);
--> statement-breakpoint
CREATE INDEX "denials_version" ON "denials" USING btree ("account_id","version","denial_id");--> statement-breakpoint
CREATE INDEX "holds_version" ON "holds" USING btree ("account_id","taken_version","hold_id");--> statement-breakpoint
CREATE INDEX "ledger_version" ON "ledger" USING btree ("account_id","version","entry_id");