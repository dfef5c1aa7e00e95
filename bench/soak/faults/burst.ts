import { connect } from 'node:net'

const CONNECTIONS = 120
const PIPELINED = 110
const TIMEOUT_MS = 60_000

type Answers = { approved: number; overloaded: number; other: number }

/** Sends 13,200 clearances at once, over few connections: each sends the next before the last is answered, as HTTP/1.1 allows. */
export async function burst(port: number, key: string): Promise<Answers> {
  const body = JSON.stringify({ agent_id: 'probe', model: 'gpt-4o', estimated_tokens: 1 })
  const one = `POST /v1/budget/clear HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer ${key}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  const answers = await Promise.all(Array.from({ length: CONNECTIONS }, () => pipeline(port, one.repeat(PIPELINED))))
  return answers.reduce((sum, { approved, overloaded, other }) => ({
    approved: sum.approved + approved,
    overloaded: sum.overloaded + overloaded,
    other: sum.other + other,
  }))
}

function pipeline(port: number, requests: string): Promise<Answers> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(requests))
    const late = setTimeout(() => socket.destroy(new Error('a burst was not answered')), TIMEOUT_MS)
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => {
      text += chunk
      if (count(text, 'HTTP/1.1 ') < PIPELINED) return
      // The last body may still be on its way.
      setTimeout(() => socket.destroy(), 200)
    })
    socket.on('error', reject)
    socket.on('close', () => {
      clearTimeout(late)
      const [approved, overloaded] = [count(text, '"approved":true'), count(text, '"error":"overloaded"')]
      resolve({ approved, overloaded, other: PIPELINED - approved - overloaded })
    })
  })
}

const count = (text: string, part: string): number => text.split(part).length - 1
