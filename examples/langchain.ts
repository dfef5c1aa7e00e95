// GVNR_URL=… GVNR_KEY=bg_… OPENAI_API_KEY=… npx tsx examples/langchain.ts
import { ChatOpenAI } from '@langchain/openai'
import { budgetDenied, createGvnr, gvnrCallbacks } from 'gvnr/client'

const { GVNR_URL = 'http://127.0.0.1:8787', GVNR_KEY = '' } = process.env
const gvnr = createGvnr({ baseUrl: GVNR_URL, apiKey: GVNR_KEY, agentId: 'crawler' })
const callbacks = [gvnrCallbacks({ gvnr, onOutcome: ({ kind }) => console.log(kind) })]
const model = new ChatOpenAI({ model: 'gpt-4o-mini', maxTokens: 200, callbacks })

try {
  const { content } = await model.invoke('Say something kind.')
  console.log(content)
} catch (error) {
  const denied = budgetDenied(error)
  if (denied === null) throw error
  console.log(`denied, ${denied.denial.reason}`)
}
