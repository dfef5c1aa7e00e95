/**
 * What a client shows its model before the first call. Some clients cut after 2 KB. `release` has no tool: settling with no tokens does
 * the same for an agent, and REST has the endpoint.
 */
export const INSTRUCTIONS = `Gvnr decides whether an AI agent may spend. Money is US dollars, times are Unix milliseconds.

The loop, for every model call:
1. budget_clear with agent_id, model and estimated_tokens (the most output the call may use; add estimated_input_tokens for the prompt).
2. approved:true: make the call and keep clearance_id. approved:false: do NOT make the call.
3. reconcile with that clearance_id and the token counts the provider reported, also when the call broke off. No counts known: leave it. Calls may overlap: each has its own clearance_id.
If you did not make the call, reconcile with 0 input and 0 output tokens (or POST /v1/budget/release): the money is free again. A clearance nobody reconciles counts as spent at its estimate when it expires (expires_at).

When denied, read reason and hint. envelope_exceeded: shrink the call to max_affordable_tokens, wait until reset_at, or ask the human who owns the account: request_approval with the denial's approval_request as it is, show approval_url to the human if you talk to one, check_approval with wait_seconds, and clear again once approved. The same request unchanged will be denied again. no_envelope: the owner must set one (set_envelope). no_credits: the account has no operations left; tell the owner. Never go around a denial.

agent_id is a path: an envelope on "team" also caps "team/crawler"; "*" caps the account.

Before a request to a rate-limited provider: rate_check. allowed:false: wait retry_after_ms, then check again.
Before an action that must not happen twice (pay, mail, post): idempotency_check with a key that names the action. Act only on is_first_call:true.

A tool error is JSON {error, hint, retryable}: follow hint; repeat unchanged only when retryable is true. Reconciling the same clearance_id twice is safe.`
