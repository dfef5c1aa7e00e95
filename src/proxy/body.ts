import type { Transform } from 'node:stream'
import { constants, createBrotliDecompress, createGunzip, createInflate } from 'node:zlib'

const FLUSH = { flush: constants.Z_SYNC_FLUSH, finishFlush: constants.Z_SYNC_FLUSH }
const BROTLI_FLUSH = { flush: constants.BROTLI_OPERATION_FLUSH, finishFlush: constants.BROTLI_OPERATION_FLUSH }

const DECODERS: Readonly<Record<string, () => Transform>> = {
  gzip: () => createGunzip(FLUSH),
  'x-gzip': () => createGunzip(FLUSH),
  deflate: () => createInflate(FLUSH),
  br: () => createBrotliDecompress(BROTLI_FLUSH),
}

/** What unpacks a body, if anything has to. `isReadable` is false for what stays packed. */
export function decoderOf(encoding: string | readonly string[] | undefined): { decoder: Transform | null; isReadable: boolean } {
  const name = String(encoding ?? '')
    .trim()
    .toLowerCase()
  if (name === '' || name === 'identity') return { decoder: null, isReadable: true }
  const decoder = DECODERS[name]?.() ?? null
  return { decoder, isReadable: decoder !== null }
}
