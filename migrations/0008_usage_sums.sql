CREATE TABLE "usage_heads" (
	"account_id" uuid PRIMARY KEY NOT NULL,
	"version" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "usage_spend" (
	"account_id" uuid NOT NULL,
	"span" smallint NOT NULL,
	"start_ms" bigint NOT NULL,
	"agent_id" text NOT NULL,
	"model" text NOT NULL,
	"spent_nanousd" bigint NOT NULL,
	"calls" integer NOT NULL,
	"input_tokens" bigint NOT NULL,
	"output_tokens" bigint NOT NULL,
	"first_version" bigint NOT NULL,
	"last_version" bigint NOT NULL,
	CONSTRAINT "usage_spend_account_id_span_start_ms_agent_id_model_pk" PRIMARY KEY("account_id","span","start_ms","agent_id","model")
);
