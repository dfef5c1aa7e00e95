import { pipeline, type Readable, type Transform } from 'node:stream'
import { constants, createBrotliDecompress, createGunzip, createInflate } from 'node:zlib'

const FLUSH = { flush: constants.Z_SYNC_FLUSH, finishFlush: constants.Z_SYNC_FLUSH }
const BROTLI_FLUSH = { flush: constants.BROTLI_OPERATION_FLUSH, finishFlush: constants.BROTLI_OPERATION_FLUSH }

const DECODERS: Readonly<Record<string, () => Transform>> = {
  gzip: () => createGunzip(FLUSH),
  'x-gzip': () => createGunzip(FLUSH),
  deflate: () => createInflate(FLUSH),
  br: () => createBrotliDecompress(BROTLI_FLUSH),
}

/** A body as it can be read: unpacked where we know how to. `isReadable` is false for what stays packed. */
export function readable(body: Readable, encoding: string): { stream: Readable; isDecoded: boolean; isReadable: boolean } {
  if (encoding === '' || encoding === 'identity') return { stream: body, isDecoded: false, isReadable: true }
  const decoder = DECODERS[encoding]?.()
  if (decoder === undefined) return { stream: body, isDecoded: false, isReadable: false }
  // A body that breaks breaks the decoder with the same error, which its reader sees.
  return { stream: pipeline(body, decoder, () => {}), isDecoded: true, isReadable: true }
}
