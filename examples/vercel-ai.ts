// GVNR_URL=… GVNR_KEY=bg_… OPENAI_API_KEY=… npx tsx examples/vercel-ai.ts
import { createOpenAI } from '@ai-sdk/openai'
import { generateText, wrapLanguageModel } from 'ai'
import { budgetDenied, createGvnr, gvnrMiddleware } from 'gvnr/client'

const { GVNR_URL = 'http://127.0.0.1:8787', GVNR_KEY = '' } = process.env
const gvnr = createGvnr({ baseUrl: GVNR_URL, apiKey: GVNR_KEY, agentId: 'crawler' })
const middleware = gvnrMiddleware({ gvnr, onOutcome: ({ kind }) => console.log(kind) })
const model = wrapLanguageModel({ model: createOpenAI().chat('gpt-4o-mini'), middleware })

try {
  const { text } = await generateText({ model, maxOutputTokens: 200, prompt: 'Say something kind.' })
  console.log(text)
} catch (error) {
  const denied = budgetDenied(error)
  if (denied === null) throw error
  console.log(`denied, ${denied.denial.reason}`)
}
