// What of a suggestion is on the screen, read out of the page that VS Code draws.
// Each function below is called by name with the arguments of a test (see editor.py).
(() => {
  const codeEditor = () =>
    document.querySelector('.editor-instance .monaco-editor.focused') ??
    document.querySelector('.editor-instance .monaco-editor');

  const blanks = (text) => text.replace(/[\u00a0\u00b7]/g, ' ').replace(/\u200b/g, '');
  const isShown = (element) => {
    const box = element.getBoundingClientRect();
    return box.height > 0 && getComputedStyle(element).visibility !== 'hidden';
  };

  // The text that CSS adds to an element.
  const added = (element, pseudo) => {
    const { content } = getComputedStyle(element, pseudo);
    return content && content.startsWith('"') ? JSON.parse(content.replace(/\\([^"\\])/g, '$1')) : '';
  };

  // The editor's own ghost text, its lines joined.
  function ghost() {
    const editor = codeEditor();
    if (!editor) return '';
    const inline = [...editor.querySelectorAll('.view-line .ghost-text-decoration, .view-line .ghost-text-decoration-preview')]
      .filter(isShown).map((one) => one.textContent).join('');
    const below = [...editor.querySelectorAll('.view-zones [monaco-visible-view-zone=true] .suggest-preview-text')]
      .filter((one) => isShown(one.parentElement))
      .flatMap((one) => [...one.querySelectorAll('.view-line')].map((line) => line.textContent));
    return blanks([inline, ...below].join('\n'));
  }

  // The texts of decorations, in the order in which they stand: drafts, and changes of a refinement.
  function decorations() {
    const editor = codeEditor();
    if (!editor) return [];
    const found = [];
    for (const one of editor.querySelectorAll('.view-line [class*="TextEditorDecorationType"]')) {
      if (!isShown(one.parentElement)) continue;
      for (const pseudo of ['::before', '::after']) {
        const text = added(one, pseudo);
        if (text) {
          const style = getComputedStyle(one, pseudo);
          found.push({ text: blanks(text), color: style.color, background: style.backgroundColor, pseudo });
        }
      }
    }
    return found;
  }

  const corner = ({ left, top, bottom }) => ({ left, middle: (top + bottom) / 2 });

  // Where a character of the editor's ghost text stands, of which the first is 0.
  function placeOfGhost(offset) {
    let before = 0;
    for (const span of codeEditor().querySelectorAll('.view-line .ghost-text-decoration')) {
      const text = span.firstChild;
      if (offset < before + text.length) {
        const range = document.createRange();
        range.setStart(text, offset - before);
        range.setEnd(text, offset - before + 1);
        return corner(range.getBoundingClientRect());
      }
      before += text.length;
    }
    return null;
  }

  // Where the parts of a draft begin. What CSS adds has no box of its own to be asked, so one is put
  // in its place.
  function placesOfDraft() {
    const places = [];
    for (const one of codeEditor().querySelectorAll('.view-line [class*="TextEditorDecorationType"]')) {
      for (const pseudo of ['::before', '::after']) {
        if (!added(one, pseudo)) continue;
        const style = getComputedStyle(one, pseudo);
        const probe = document.createElement('i');
        probe.style.position = style.position;
        probe.style.marginLeft = style.marginLeft;
        probe.textContent = 'x';
        one.append(probe);
        places.push(corner(probe.getBoundingClientRect()));
        probe.remove();
      }
    }
    return places;
  }

  const draft = () => decorations().map((one) => one.text).join('');

  // Notes after every frame that was painted what is visible, whenever that has changed.
  function record() {
    const frames = [];
    const channel = new MessageChannel();
    let isOn = true;
    let count = 0;
    channel.port1.onmessage = () => {
      const frame = { ghost: ghost(), draft: draft() };
      const last = frames[frames.length - 1];
      if (!last || last.ghost !== frame.ghost || last.draft !== frame.draft) {
        frames.push({ ...frame, at: performance.now(), number: count });
      }
    };
    const next = () => {
      if (!isOn) return;
      count += 1;
      channel.port2.postMessage(null);
      requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
    globalThis.dlmRecording = {
      stop() {
        isOn = false;
        channel.port1.close();
        return { frames, count };
      },
    };
  }

  const background = () =>
    getComputedStyle(codeEditor().querySelector('.monaco-editor-background')).backgroundColor;

  const stop = () => globalThis.dlmRecording.stop();

  const texts = (selector) =>
    [...document.querySelectorAll(selector)].filter(isShown).map((one) => blanks(one.textContent));

  globalThis.dlmPage = { background, placeOfGhost, placesOfDraft, ghost, decorations, draft, record, stop, texts, codeEditor };
})();
