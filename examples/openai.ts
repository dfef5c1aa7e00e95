// GVNR_URL=… GVNR_KEY=bg_… OPENAI_API_KEY=… npx tsx examples/openai.ts
import { budgetDenied, createGvnr, governOpenAI } from 'gvnr/client'
import OpenAI from 'openai'

const { GVNR_URL = 'http://127.0.0.1:8787', GVNR_KEY = '' } = process.env
const gvnr = createGvnr({ baseUrl: GVNR_URL, apiKey: GVNR_KEY, agentId: 'crawler' })
const openai = governOpenAI(new OpenAI(), { gvnr, onOutcome: ({ kind }) => console.log(`\n${kind}`) })

try {
  const stream = await openai.chat.completions.create({
    model: 'gpt-4o-mini',
    max_tokens: 200,
    messages: [{ role: 'user', content: 'Say something kind.' }],
    stream: true,
  })
  for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? '')
} catch (error) {
  const denied = budgetDenied(error)
  if (denied === null) throw error
  console.log(`denied, ${denied.denial.reason}`)
}
