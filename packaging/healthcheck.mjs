// Ends with 0 when the server of this container answers: for HEALTHCHECK, where there is no curl.
const { PORT = '8787' } = process.env
const { ok } = await fetch(`http://127.0.0.1:${PORT}/health`, { signal: AbortSignal.timeout(2_500) }).catch(() => ({ ok: false }))
process.exit(ok ? 0 : 1)
