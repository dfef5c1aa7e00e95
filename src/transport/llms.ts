import type { Operation } from '../core/operation.ts'

/** `/llms.txt`: what an agent needs to use this server, in one short text. */
export function llmsText<D>(operations: readonly Operation<D>[], origin: string): string {
  const tags = [...new Set(operations.map(({ tag }) => tag))]
  const endpoints = tags.map((tag) => {
    const lines = operations
      .filter((operation) => operation.tag === tag)
      .map(({ name, title, method, path, tool }) => {
        const toolNote = tool === undefined ? '' : ` (MCP tool ${name})`
        return `- [${method.toUpperCase()} ${path}](${origin}/docs#${name}): ${title}${toolNote}`
      })
    return `### ${tag}\n\n${lines.join('\n')}`
  })
  return `# Gvnr

> Spend authority for AI agents. An agent asks for clearance before each model call; Gvnr approves it only if it fits every spend
> envelope above the agent, and settles the real cost afterwards. REST and MCP, the same operations on both.

Base address: ${origin}. Send the key as \`Authorization: Bearer bg_…\`. A denial is not an error: it is 200 with \`approved:false\` or
\`allowed:false\`, a \`reason\` and a \`hint\`. Errors are \`{error, hint, retryable}\`. Money is in US dollars, times are Unix milliseconds.

## The loop

1. \`POST /v1/budget/clear\` with \`{agent_id, model, estimated_tokens, estimated_input_tokens}\`.
2. If \`approved\` is false, do not make the call. \`reason\`, \`hint\` and \`max_affordable_tokens\` say what would work.
3. If it is true, make the call and keep \`clearance_id\`.
4. \`POST /v1/budget/reconcile\` with \`{agent_id, clearance_id, actual_input_tokens, actual_output_tokens}\` from the provider's usage.
   If the call was not made, \`POST /v1/budget/release\` with \`{clearance_id}\` instead.

First: \`POST /v1/account\` (no key needed) returns an owner key. \`PUT /v1/budget/envelope\` sets a cap. \`POST /v1/account/keys\` makes a key of
scope \`agent\` for each agent, so that an agent cannot lift its own cap. One approved clearance burns one operation; 1,000 operations cost $1.

Or make the call through this server: ${origin}/v1 is a base URL for OpenAI's clients, ${origin} one for Anthropic's, with a Gvnr key. Each call is
then cleared and reconciled by itself; one that does not fit answers 403 with a \`reason\` in its error.

## MCP

Streamable HTTP at ${origin}/mcp. Claude Code: \`claude mcp add gvnr --transport http ${origin}/mcp --header "Authorization: Bearer bg_…"\`

## Endpoints

${endpoints.join('\n\n')}

## Links

- [API reference](${origin}/docs)
- [OpenAPI 3.1](${origin}/openapi.json)
- [MCP server description](${origin}/.well-known/mcp.json)
- [Models and prices](${origin}/docs#list_models)
- [Dashboard for people](${origin}/dashboard)
- [Status](${origin}/status.json)
`
}
