import type { Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { DomainError, type ErrorCode } from '../core/errors.ts'
import { requestId } from '../core/ids.ts'

const CODES: Readonly<Record<string, ErrorCode>> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  HPE_CHUNK_EXTENSIONS_OVERFLOW: 'payload_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
}
const REASONS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  408: 'Request Timeout',
  413: 'Payload Too Large',
  431: 'Request Header Fields Too Large',
}

/** What Node refuses before there is a request is answered like every other refusal (contract section 1). */
export function answerUnparsed(server: Server): void {
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Duplex) => {
    // A peer that is gone, or is in the middle of an answer, can be told nothing.
    if (!socket.writable || error.code === 'ECONNRESET' || hasBegunAnswer(socket)) {
      socket.destroy()
      return
    }
    const refusal = new DomainError(CODES[error.code ?? ''] ?? 'malformed_request')
    const body = JSON.stringify(refusal.toBody())
    const head = [
      `HTTP/1.1 ${refusal.status} ${REASONS[refusal.status]}`,
      'Content-Type: application/json',
      'Cache-Control: no-store',
      `X-Request-Id: ${requestId()}`,
      `Content-Length: ${Buffer.byteLength(body)}`,
      'Connection: close',
    ]
    socket.end(`${head.join('\r\n')}\r\n\r\n${body}`)
  })
  server.on('checkExpectation', (_request: unknown, response: ServerResponse) => {
    const refusal = new DomainError('expectation_failed')
    const body = JSON.stringify(refusal.toBody())
    response.writeHead(refusal.status, {
      'Content-Type': 'application/json',
      'Cache-Control': 'no-store',
      'X-Request-Id': requestId(),
      'Content-Length': Buffer.byteLength(body),
    })
    response.end(body)
  })
}

const hasBegunAnswer = (socket: Duplex): boolean => {
  const { _httpMessage: message } = socket as Duplex & { _httpMessage?: { headersSent: boolean } | null }
  return message?.headersSent ?? false
}
