CREATE TABLE "chain_cursors" (
	"chain_id" integer PRIMARY KEY NOT NULL,
	"scanned_block" bigint NOT NULL,
	"scanned_hash" text NOT NULL,
	"final_block" bigint NOT NULL,
	"lease_holder" uuid,
	"lease_ms" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "credits" (
	"chain_id" integer NOT NULL,
	"tx_hash" text NOT NULL,
	"log_index" integer NOT NULL,
	"credit_id" uuid NOT NULL,
	"state" text NOT NULL,
	"source" text,
	"account_id" uuid,
	"payer" text NOT NULL,
	"receiver" text NOT NULL,
	"amount_units" bigint NOT NULL,
	"ops" bigint NOT NULL,
	"debt_paid_ops" bigint NOT NULL,
	"debt_ops" bigint NOT NULL,
	"entry_id" uuid,
	"nonce" text,
	"block_number" bigint NOT NULL,
	"block_hash" text NOT NULL,
	"is_final" boolean NOT NULL,
	"seen_ms" bigint NOT NULL,
	"credited_ms" bigint,
	"reversed_ms" bigint,
	CONSTRAINT "credits_chain_id_tx_hash_log_index_pk" PRIMARY KEY("chain_id","tx_hash","log_index"),
	CONSTRAINT "credits_id" UNIQUE("credit_id")
);
--> statement-breakpoint
CREATE TABLE "outflows" (
	"chain_id" integer NOT NULL,
	"tx_hash" text NOT NULL,
	"log_index" integer NOT NULL,
	"payer" text NOT NULL,
	"receiver" text NOT NULL,
	"amount_units" bigint NOT NULL,
	"block_number" bigint NOT NULL,
	CONSTRAINT "outflows_chain_id_tx_hash_log_index_pk" PRIMARY KEY("chain_id","tx_hash","log_index")
);
--> statement-breakpoint
CREATE TABLE "payment_intents" (
	"chain_id" integer NOT NULL,
	"payer" text NOT NULL,
	"nonce" text NOT NULL,
	"account_id" uuid NOT NULL,
	"receiver" text NOT NULL,
	"amount_units" bigint NOT NULL,
	"valid_before_ms" bigint NOT NULL,
	"from_block" bigint NOT NULL,
	"state" text NOT NULL,
	"tx_hash" text,
	"lease_ms" bigint NOT NULL,
	"created_ms" bigint NOT NULL,
	CONSTRAINT "payment_intents_chain_id_payer_nonce_pk" PRIMARY KEY("chain_id","payer","nonce")
);
--> statement-breakpoint
CREATE TABLE "receiving_addresses" (
	"chain_id" integer NOT NULL,
	"address" text NOT NULL,
	"account_id" uuid,
	"opening_units" bigint NOT NULL,
	"created_ms" bigint NOT NULL,
	CONSTRAINT "receiving_addresses_chain_id_address_pk" PRIMARY KEY("chain_id","address")
);
--> statement-breakpoint
CREATE INDEX "credits_nonce" ON "credits" USING btree ("chain_id","payer","nonce");--> statement-breakpoint
CREATE INDEX "credits_account" ON "credits" USING btree ("account_id","credit_id");--> statement-breakpoint
CREATE INDEX "credits_open" ON "credits" USING btree ("chain_id","state") WHERE "credits"."state" in ('unattributed', 'pending', 'reversing');--> statement-breakpoint
CREATE INDEX "credits_unfinal" ON "credits" USING btree ("chain_id","block_number") WHERE not "credits"."is_final";--> statement-breakpoint
CREATE INDEX "payment_intents_open" ON "payment_intents" USING btree ("chain_id","valid_before_ms") WHERE "payment_intents"."state" = 'open';