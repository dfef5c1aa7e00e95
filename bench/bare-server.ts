import { serve } from '@hono/node-server'
import { Hono } from 'hono'

/*
 * What the framework alone can do: parses a JSON body and answers a JSON object of the shape of a clearance. No validation, no key, no
 * database. Every rate of gvnr is also given as a ratio to this one.
 */

const app = new Hono()

app.post('/v1/budget/clear', async (c) => {
  const { estimated_tokens } = (await c.req.json()) as { estimated_tokens: number }
  return c.json({
    approved: true,
    remaining_usd: estimated_tokens / 1_000_000,
    operations_remaining: 1_000_000_000,
    clearance_id: '01900000-0000-7000-8000-000000000000',
    expires_at: Date.now() + 3_600_000,
  })
})

process.on('disconnect', () => process.exit(0))
serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) => process.send?.({ port }))
