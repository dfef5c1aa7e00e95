/**
 * Packages that stay outside the bundle: they find their own files (wasm, workers) by path, or only who traces should
 * load them. They are the `dependencies` of package.json,
 * what an installation brings; everything else is in the bundle and so a development dependency.
 */
export const external = ['@electric-sql/pglite', 'pino', '@pydantic/genai-prices', '@opentelemetry/*']
