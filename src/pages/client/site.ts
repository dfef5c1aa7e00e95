/** The script of the pages: copy buttons, and figures that follow what happens. Without it everything works that can be done by hand. */

const COPIED_MS = 2_000

for (const button of document.querySelectorAll<HTMLButtonElement>('button.copy')) {
  const label = button.textContent
  button.hidden = false
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy ?? '')?.textContent ?? '')
    button.textContent = 'Copied'
    setTimeout(() => {
      button.textContent = label
    }, COPIED_MS)
  })
}

const state = document.getElementById('live-state')
if (state?.dataset.events) follow(state, state.dataset.events)

function follow(state: HTMLElement, address: string): void {
  const source = new EventSource(address)
  const tell = (text: string): void => {
    state.hidden = false
    if (state.textContent !== text) state.textContent = text
  }
  source.addEventListener('update', (event: MessageEvent<string>) => {
    tell('Live')
    const parts = JSON.parse(event.data) as Record<string, string>
    for (const [id, html] of Object.entries(parts)) {
      const part = document.getElementById(id)
      // A button that has the focus must not be taken away from under it.
      if (part === null || part.contains(document.activeElement)) continue
      // Made by the same code as the page, which escapes what others wrote.
      if (part.innerHTML !== html) part.innerHTML = html
    }
  })
  source.addEventListener('end', () => {
    source.close()
    tell('You are signed out. Reload to sign in.')
  })
  source.addEventListener('error', () => {
    tell(source.readyState === EventSource.CLOSED ? 'Not live: reload to see what is new.' : 'Connecting again …')
  })
}
