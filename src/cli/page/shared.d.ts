/** What page.js shares with events.js: classic scripts share no modules. */
interface AuditPage {
  readonly byId: (id: string) => HTMLElement
  readonly button: (text: string, name: string, action: () => Promise<void>) => HTMLElement
  readonly call: (path: string) => Promise<Response>
  readonly make: (tag: string, text: string, attributes?: Record<string, string>) => HTMLElement
  /** Shows the server's answer in the dialog. */
  readonly showIn: (name: string, path: string) => Promise<void>
  /** A text with its invisible characters escaped. */
  readonly visible: (text: string) => string
  /** Shows the queue, or hides it. */
  readonly showQueue: (isShown: boolean) => void
}

// eslint-disable-next-line no-var -- a global of scripts, which share no modules
declare var auditPage: AuditPage
