CREATE TABLE "accounts" (
	"account_id" uuid PRIMARY KEY NOT NULL,
	"ops" bigint NOT NULL,
	"version" bigint DEFAULT 0 NOT NULL,
	"clock_ms" bigint NOT NULL,
	"notification_email" text,
	"created_ms" bigint NOT NULL,
	CONSTRAINT "accounts_ops_not_negative" CHECK ("accounts"."ops" >= 0)
);
--> statement-breakpoint
CREATE TABLE "api_keys" (
	"account_id" uuid NOT NULL,
	"key_id" uuid NOT NULL,
	"key_hash" "bytea" NOT NULL,
	"name" text NOT NULL,
	"scope" text NOT NULL,
	"agent_id" text,
	"created_ms" bigint NOT NULL,
	"expires_ms" bigint,
	"revoked_ms" bigint,
	"last_used_ms" bigint,
	CONSTRAINT "api_keys_account_id_key_id_pk" PRIMARY KEY("account_id","key_id"),
	CONSTRAINT "api_keys_hash" UNIQUE("key_hash")
);
--> statement-breakpoint
CREATE TABLE "throttles" (
	"subject" text PRIMARY KEY NOT NULL,
	"window_start_ms" bigint NOT NULL,
	"count" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "denials" (
	"account_id" uuid NOT NULL,
	"denial_id" uuid NOT NULL,
	"agent_id" text NOT NULL,
	"model" text NOT NULL,
	"estimate_nanousd" bigint NOT NULL,
	"reason" text NOT NULL,
	"denied_ms" bigint NOT NULL,
	CONSTRAINT "denials_account_id_denial_id_pk" PRIMARY KEY("account_id","denial_id")
);
--> statement-breakpoint
CREATE TABLE "envelopes" (
	"account_id" uuid NOT NULL,
	"agent_id" text NOT NULL,
	"limit_hourly_nanousd" bigint,
	"limit_daily_nanousd" bigint,
	"limit_weekly_nanousd" bigint,
	"limit_monthly_nanousd" bigint,
	"limit_session_nanousd" bigint,
	"spent_hourly_nanousd" bigint NOT NULL,
	"spent_daily_nanousd" bigint NOT NULL,
	"spent_weekly_nanousd" bigint NOT NULL,
	"spent_monthly_nanousd" bigint NOT NULL,
	"spent_session_nanousd" bigint NOT NULL,
	"clock_ms" bigint NOT NULL,
	"created_ms" bigint NOT NULL,
	CONSTRAINT "envelopes_account_id_agent_id_pk" PRIMARY KEY("account_id","agent_id")
);
--> statement-breakpoint
CREATE TABLE "holds" (
	"account_id" uuid NOT NULL,
	"hold_id" uuid NOT NULL,
	"agent_id" text NOT NULL,
	"kind" smallint NOT NULL,
	"state" smallint NOT NULL,
	"model" text NOT NULL,
	"estimate_nanousd" bigint NOT NULL,
	"rates" text NOT NULL,
	"charged" text NOT NULL,
	"taken_ms" bigint NOT NULL,
	"expires_ms" bigint NOT NULL,
	"resolved_ms" bigint,
	"actual_nanousd" bigint,
	"outcome" text,
	CONSTRAINT "holds_account_id_hold_id_pk" PRIMARY KEY("account_id","hold_id")
);
--> statement-breakpoint
CREATE TABLE "ledger" (
	"account_id" uuid NOT NULL,
	"entry_id" uuid NOT NULL,
	"kind" text NOT NULL,
	"agent_id" text,
	"hold_id" uuid,
	"ops_delta" bigint NOT NULL,
	"amount_nanousd" bigint NOT NULL,
	"detail" text NOT NULL,
	"at_ms" bigint NOT NULL,
	CONSTRAINT "ledger_account_id_entry_id_pk" PRIMARY KEY("account_id","entry_id")
);
--> statement-breakpoint
CREATE TABLE "idempotency_keys" (
	"account_id" uuid NOT NULL,
	"key" text NOT NULL,
	"expires_ms" bigint NOT NULL,
	CONSTRAINT "idempotency_keys_account_id_key_pk" PRIMARY KEY("account_id","key")
);
--> statement-breakpoint
CREATE TABLE "idempotent_requests" (
	"account_id" uuid NOT NULL,
	"key" text NOT NULL,
	"fingerprint" "bytea" NOT NULL,
	"operation_id" uuid NOT NULL,
	"lease_ms" bigint NOT NULL,
	"status" integer,
	"response" "bytea",
	"expires_ms" bigint NOT NULL,
	CONSTRAINT "idempotent_requests_account_id_key_pk" PRIMARY KEY("account_id","key")
);
--> statement-breakpoint
CREATE TABLE "rate_envelopes" (
	"account_id" uuid NOT NULL,
	"agent_id" text NOT NULL,
	"provider" text NOT NULL,
	"model" text NOT NULL,
	"requests_per_minute" integer NOT NULL,
	"window_start_ms" bigint NOT NULL,
	"requests_in_window" integer NOT NULL,
	CONSTRAINT "rate_envelopes_account_id_agent_id_provider_model_pk" PRIMARY KEY("account_id","agent_id","provider","model")
);
--> statement-breakpoint
CREATE INDEX "api_keys_revoked" ON "api_keys" USING btree ("revoked_ms") WHERE "api_keys"."revoked_ms" is not null;--> statement-breakpoint
CREATE INDEX "throttles_window" ON "throttles" USING btree ("window_start_ms");--> statement-breakpoint
CREATE INDEX "holds_open" ON "holds" USING btree ("account_id","agent_id","hold_id") WHERE "holds"."state" = 0;--> statement-breakpoint
CREATE INDEX "idempotency_keys_expiry" ON "idempotency_keys" USING btree ("expires_ms");--> statement-breakpoint
CREATE INDEX "idempotent_requests_expiry" ON "idempotent_requests" USING btree ("expires_ms");