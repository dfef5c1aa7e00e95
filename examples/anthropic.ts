// GVNR_URL=… GVNR_KEY=bg_… ANTHROPIC_API_KEY=… npx tsx examples/anthropic.ts
import Anthropic from '@anthropic-ai/sdk'
import { budgetDenied, createGvnr, governAnthropic } from 'gvnr/client'

const { GVNR_URL = 'http://127.0.0.1:8787', GVNR_KEY = '' } = process.env
const gvnr = createGvnr({ baseUrl: GVNR_URL, apiKey: GVNR_KEY, agentId: 'crawler' })
const anthropic = governAnthropic(new Anthropic(), { gvnr, onOutcome: ({ kind }) => console.log(kind) })

try {
  const message = await anthropic.messages.create({
    model: 'claude-haiku-4-5',
    max_tokens: 200,
    messages: [{ role: 'user', content: 'Say something kind.' }],
  })
  for (const block of message.content) if (block.type === 'text') console.log(block.text)
} catch (error) {
  const denied = budgetDenied(error)
  if (denied === null) throw error
  console.log(`denied, ${denied.denial.reason}`)
}
