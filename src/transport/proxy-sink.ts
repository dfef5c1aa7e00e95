import type { Socket } from 'node:net'
import type { HttpBindings } from '@hono/node-server'
import type { Sink } from '../proxy/call.ts'
import type { HttpContext } from './http.ts'

type Outgoing = HttpBindings['outgoing']

/** Longest piece that is copied into a chunk of its own; a longer one goes out as it is, between Node's own marks. */
const MAX_COPIED_BYTES = 16 * 1024
const CR = 0x0d
const LF = 0x0a

/** The client's connection as the proxy writes to it: past the framework, which would copy each chunk through web streams. */
export function sinkOf(c: HttpContext, requestId: string): ResponseSink {
  const { outgoing } = c.env
  if (outgoing === undefined) throw new Error('the proxy needs a connection to write to')
  return new ResponseSink(outgoing, requestId)
}

/** Exported for its test. */
export class ResponseSink implements Sink {
  readonly #outgoing: Outgoing
  readonly #requestId: string
  /** The head is out, so that the socket takes what follows. */
  #isFlushed = false

  constructor(outgoing: Outgoing, requestId: string) {
    this.#outgoing = outgoing
    this.#requestId = requestId
  }

  get hasStarted(): boolean {
    return this.#outgoing.headersSent
  }

  get isClosed(): boolean {
    return this.#outgoing.destroyed || this.#outgoing.writableEnded
  }

  start(status: number, headers: Record<string, string | string[]>, isStream: boolean): void {
    const ours = isStream ? { 'x-accel-buffering': 'no' } : {}
    this.#outgoing.writeHead(status, { 'x-request-id': this.#requestId, ...headers, ...ours })
    if (!isStream || !('flushHeaders' in this.#outgoing)) return
    this.#outgoing.flushHeaders()
    this.#isFlushed = true
  }

  write(chunk: Buffer): boolean {
    // A chunk of no bytes is the mark of the end.
    if (chunk.length === 0) return true
    const socket = this.#chunkedSocket
    return socket === null || chunk.length > MAX_COPIED_BYTES ? this.#outgoing.write(chunk) : socket.write(chunkOf(chunk))
  }

  onceDrained(go: () => void): void {
    const drains = this.#chunkedSocket ?? this.#outgoing
    drains.once('drain', go)
  }

  /**
   * The socket, when what is written to it must be in chunks. Node hands each of them over in four pieces; one is
   * cheaper (docs/decisions/0015). Null before the connection is this answer's (a pipelined request) and for an answer whose length is known.
   */
  get #chunkedSocket(): Socket | null {
    const outgoing = this.#outgoing
    return this.#isFlushed && 'chunkedEncoding' in outgoing && outgoing.chunkedEncoding ? outgoing.socket : null
  }

  end(): void {
    this.#outgoing.end()
  }

  destroy(): void {
    this.#outgoing.destroy()
  }

  onClosed(gone: () => void): void {
    this.#outgoing.once('close', gone)
  }
}

/** One piece as HTTP/1.1 sends it: its length, its bytes (RFC 9112 section 7.1). */
function chunkOf(bytes: Buffer): Buffer {
  const length = bytes.length.toString(16)
  const start = length.length + 2
  const end = start + bytes.length
  const chunk = Buffer.allocUnsafe(end + 2)
  chunk.write(length, 0, 'latin1')
  chunk[start - 2] = CR
  chunk[start - 1] = LF
  bytes.copy(chunk, start)
  chunk[end] = CR
  chunk[end + 1] = LF
  return chunk
}
