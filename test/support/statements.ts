/** The statements in a PostgreSQL log that was written with `log_statement=all` and `log_line_prefix` `PREFIX`, each as it was sent. */
export const LOG_PREFIX = '@@%a@@ '
export function statementsIn(log: string, application: string): string[] {
  return log
    .split(/^@@/m)
    .filter((entry) => entry.startsWith(`${application}@@ LOG:`))
    .flatMap((entry) => /LOG: {2}(?:statement|execute [^:]*): ([\s\S]*)/.exec(entry)?.[1] ?? [])
    .map((text) => text.replaceAll('\n\t', '\n').trim())
}

const REFERENCE =
  /\b(insert into|update|delete from|from|join) +(?:only +)?"?([a-z_]+)"?(?: +as)?(?: +"?(?!set\b|where\b|on\b|order\b|join\b|left\b|values\b|returning\b|limit\b|using\b|for\b)([a-z]+)"?)?/g

/**
 * The tables that a statement reads or writes without saying which account: a row that is inserted must have the column, any other must
 * be found by it. Reads the text as this product writes it, which is all that it is for.
 */
export function withoutAccount(statement: string, tables: ReadonlySet<string>): string[] {
  const text = statement.replaceAll(/\s+/g, ' ')
  const found: string[] = []
  for (const reference of text.matchAll(REFERENCE)) {
    const [whole, verb, table = '', alias] = reference
    if (!tables.has(table)) continue
    const rest = text.slice(reference.index + whole.length)
    // `do update set` and `for update` name no table; they never get here, because no table is called so.
    const carries =
      verb === 'insert into' ? /^ *\(?"?account_id"?\b|^ *\([^)]*\baccount_id\b/.test(rest) : isFound(alias ?? table, text, rest)
    if (!carries) found.push(table)
  }
  return found
}

function isFound(name: string, text: string, rest: string): boolean {
  const column = `"?${name}"?\\."?account_id"?`
  const qualified = new RegExp(`${column} *(?:=|in\\b)|= *${column}|\\(${column}, [^)]*\\) *(?:=|in\\b)`)
  if (qualified.test(text)) return true
  // Without a name in front it belongs to the nearest table: look no further than the parenthesis this one is in.
  return /(?:where|and) \(*"?account_id"? *=/.test(withinParenthesis(rest))
}

function withinParenthesis(text: string): string {
  let depth = 0
  for (let index = 0; index < text.length; index++) {
    if (text[index] === '(') depth++
    if (text[index] === ')' && --depth < 0) return text.slice(0, index)
  }
  return text
}
