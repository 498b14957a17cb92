// Draws the figures and the viewer of a report from the JSON blocks of the page. Nothing is fetched.
'use strict';
(function () {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = window.matchMedia('(prefers-color-scheme: dark)');

  // figures: one colour of ink for light pages and paper, another for dark screens
  const ink = (isDark) => ({ 'font.color': isDark ? '#dfe5e7' : '#22282b' });
  const plots = Array.from(document.querySelectorAll('.figure[data-figure]'));
  for (const place of plots) {
    const figure = read(place.dataset.figure);
    figure.layout.font.color = ink(dark.matches)['font.color'];
    Plotly.newPlot(place, figure.data, figure.layout, {
      responsive: true,
      displaylogo: false,
      showTips: false,
      plotlyServerURL: '',
      modeBarButtons: [['toImage', 'resetScale2d']],
    });
  }
  const paint = (isDark) => plots.forEach((place) => Plotly.relayout(place, ink(isDark)));
  dark.addEventListener('change', (event) => paint(event.matches));
  const paper = 660; // px, the width of a sheet
  window.addEventListener('beforeprint', () => plots.forEach((place) => {
    Plotly.relayout(place, { ...ink(false), width: Math.min(place.clientWidth, paper) });
  }));
  window.addEventListener('afterprint', () => plots.forEach((place) => {
    Plotly.relayout(place, { ...ink(dark.matches), width: null, autosize: true });
  }));

  // viewer
  if (!document.getElementById('viewer-data')) return;
  const fault = (error) => {
    const place = document.getElementById('viewer-fault');
    place.hidden = false;
    place.textContent = 'The viewer needs WebGL, which this browser does not offer (' + error + '). ' +
      'The frames are in example.extxyz.';
  };
  try {
    const places = { meta: 'viewer-meta', structure: 'viewer-stage', info: 'viewer-info' };
    const warnings = new Chemiscope.Warnings();
    warnings.addHandler((message) => console.warn(message));
    const quiet = new CSSStyleSheet(); // there is one view, so nothing to tell apart by a coloured dot
    quiet.replaceSync('.chsp-pin-marker { display: none; }');
    Chemiscope.StructureVisualizer.load(places, read('viewer-data'), warnings).then((visualizer) => {
      for (const element of document.querySelectorAll('#viewer-stage *')) {
        if (element.shadowRoot) element.shadowRoot.adoptedStyleSheets = [...element.shadowRoot.adoptedStyleSheets, quiet];
      }
      const buttons = Array.from(document.querySelectorAll('.frames button'));
      const show = (chosen) => {
        const frame = Number(chosen.dataset.frame);
        visualizer.select(visualizer.indexer.fromStructure(frame, 'structure'));
        for (const button of buttons) button.setAttribute('aria-pressed', String(button === chosen));
      };
      for (const button of buttons) button.addEventListener('click', () => show(button));
      document.getElementById('viewer').dataset.state = 'ready';
    }).catch(fault);
  } catch (error) {
    fault(error);
  }
})();
