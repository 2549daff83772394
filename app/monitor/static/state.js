// What the modules know together about the page and its connection. Times are those of performance.now().

export const state = {
  paused: false,            // the reader has paused the page
  showingHeld: false,       // rows that were held back are being shown, though rows are selected or the page is paused
  stopped: false,           // the page is hidden, or the sign-in has ended: nothing is asked for
  signedOut: false,
  socketOpen: false,        // the server has said hello on the socket
  socketSilent: false,      // the socket is open, but a ping was not answered
  socketLostAt: 0,
  answering: true,          // the last request or socket message was answered without a server error
  networkCut: false,        // nothing comes through
  networkReached: false,    // the probe was answered after a cut, so the network works
  lastHeardAt: performance.now(),
  offlineSince: 0,          // 0 while the page is not offline
  fetching: false,
  fetchedAt: 0,
  fetchTookMs: 0,
  request: null,            // AbortController of the refresh that is under way, or of the last one
  actionsSent: 0,           // a refresh that was requested before the last action may show the state before it
};
