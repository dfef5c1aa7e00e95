// GVNR_URL=… GVNR_KEY=bg_… OPENAI_API_KEY=… npx tsx examples/ask-a-human.ts
// Any call, whatever makes it: withBudget clears it, asks a human when the cap is reached, and settles it.
import { createGvnr, withBudget } from 'gvnr/client'
import OpenAI from 'openai'

const { GVNR_URL = 'http://127.0.0.1:8787', GVNR_KEY = '' } = process.env
const gvnr = createGvnr({ baseUrl: GVNR_URL, apiKey: GVNR_KEY, agentId: 'crawler' })
const openai = new OpenAI()

const answer = await withBudget(
  {
    gvnr,
    model: 'gpt-4o-mini',
    estimatedTokens: 200,
    estimatedInputTokens: 40,
    onDenied: 'ask',
    onAsk: ({ approval_url }) => console.log(`asked: ${approval_url}`),
    onOutcome: ({ kind }) => console.log(kind),
  },
  () =>
    openai.chat.completions.create({
      model: 'gpt-4o-mini',
      max_tokens: 200,
      messages: [{ role: 'user', content: 'Say something kind.' }],
    }),
)
console.log(answer.choices[0]?.message.content)
