(() => {
  // A picture stands in the gallery once; where a statement names it, it is shown when it comes into sight.
  const show = (link) => {
    const figure = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    const frame = figure && figure.querySelector(".frame");
    if (frame && !link.nextElementSibling) link.after(frame.cloneNode(true));
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      show(entry.target);
    }
  });
  for (const link of document.querySelectorAll("a.picture")) watcher.observe(link);
})();
