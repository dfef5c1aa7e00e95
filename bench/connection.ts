import { connect, type Socket } from 'node:net'

/** One answer, where it lies in `bytes`. Valid only until the callback returns. */
export type Answer = { readonly status: number; readonly bytes: Buffer; readonly bodyStart: number; readonly end: number }

const READ_BYTES = 64 * 1024
const HEADERS_END = Buffer.from('\r\n\r\n')
const CHUNKS_END = Buffer.from('\r\n0\r\n\r\n')

/**
 * A keep-alive HTTP/1.1 connection with one request at a time. It does as little as it can, so that the load generator never is what
 * limits a measurement: requests are ready-made bytes, and of an answer only the status and the length are read.
 */
export class Connection {
  readonly #socket: Socket
  readonly #onAnswer: (connection: Connection, answer: Answer) => void
  #pending: Buffer | null = null
  /** For the owner: when the request under way counts as sent, and what to send next. */
  sentAt = 0
  tag = 0

  private constructor(socket: Socket, onAnswer: (connection: Connection, answer: Answer) => void) {
    this.#socket = socket
    this.#onAnswer = onAnswer
  }

  static open(
    port: number,
    onAnswer: (connection: Connection, answer: Answer) => void,
    onFailure: (error: Error) => void,
  ): Promise<Connection> {
    return new Promise((resolve, reject) => {
      let connection: Connection | undefined
      const socket = connect({
        port,
        host: '127.0.0.1',
        noDelay: true,
        onread: {
          buffer: Buffer.allocUnsafe(READ_BYTES),
          callback: (length: number, buffer: Uint8Array) => {
            connection?.receive(buffer as Buffer, length)
            return true
          },
        },
      })
      socket.once('connect', () => {
        connection = new Connection(socket, onAnswer)
        resolve(connection)
      })
      socket.on('error', (error) => {
        reject(error)
        onFailure(error)
      })
      socket.on('end', () => onFailure(new Error('the server closed a connection')))
    })
  }

  send(bytes: Buffer, sentAt: number): void {
    this.sentAt = sentAt
    this.#socket.write(bytes)
  }

  close(): void {
    this.#socket.removeAllListeners('end')
    this.#socket.destroy()
  }

  receive(buffer: Buffer, length: number): void {
    // The socket reuses its buffer: what stays beyond this call is copied.
    const bytes = this.#pending === null ? buffer : Buffer.concat([this.#pending, buffer.subarray(0, length)])
    const answer = parse(bytes, this.#pending === null ? length : bytes.length)
    if (answer === null) {
      this.#pending = this.#pending === null ? Buffer.from(buffer.subarray(0, length)) : bytes
      return
    }
    this.#pending = null
    this.#onAnswer(this, answer)
  }
}

/** The answer at the start of `bytes`, null while some of it is missing. */
function parse(bytes: Buffer, length: number): Answer | null {
  const headersEnd = bytes.indexOf(HEADERS_END)
  if (headersEnd === -1 || headersEnd + 4 > length) return null
  const headers = bytes.toString('latin1', 0, headersEnd)
  const status = Number(headers.slice(9, 12))
  const bodyStart = headersEnd + 4
  const declared = /\r\ncontent-length: *(\d+)/i.exec(headers)
  if (declared !== null) {
    const end = bodyStart + Number(declared[1])
    return end > length ? null : { status, bytes, bodyStart, end }
  }
  const chunksEnd = bytes.indexOf(CHUNKS_END, bodyStart - 2)
  if (chunksEnd === -1 || chunksEnd + CHUNKS_END.length > length) return null
  return { status, bytes, bodyStart, end: chunksEnd + CHUNKS_END.length }
}
