/** What an agent might write to break out of a page, a header or a chat message, or to deceive who reads it. */
export const NASTY = [
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  "' onmouseover='alert(1)",
  '</blockquote></main><h1>Approved</h1>',
  '<!--', // swallows the rest of a page
  '&lt;b&gt;already escaped&lt;/b&gt;',
  'javascript:alert(1)',
  '{{constructor.constructor("alert(1)")()}}',
  'line one\r\nBcc: victim@example.com\r\n\r\nanother body',
  'a\u2028b\u2029c\u0085d',
  'pay \u202e00.1$ \u202conly', // reads backwards
  'zero\u200bwidth\u2060join\ufeffer',
  '\u001b[31mred\u0007',
  '<!channel> <!everyone> <@U012AB3CD> <https://evil.example|click here>',
  '@everyone @here <@&123> <#456> [click](https://evil.example) **bold** `code` ||spoiler||',
  '*bold* _italic_ ~strike~ > quote',
  '=HYPERLINK("https://evil.example")',
  '𝕏 👩‍👩‍👧‍👦 é́́́́́́́́ ᄀᄀᄀ각ᆨᆨ',
  'x'.repeat(280),
] as const
