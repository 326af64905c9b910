(() => {
  // A picture stands in the gallery once. Where a statement names it, it is shown small when it comes into sight;
  // the link leads to the large one.
  const show = (link) => {
    const figure = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    const image = figure && figure.querySelector("img");
    if (!image || link.querySelector("img")) return;
    const small = image.cloneNode();
    // The link has the picture's name, and leads to the words.
    small.alt = "";
    link.append(small);
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      show(target);
    }
  });
  for (const link of document.querySelectorAll("a.picture")) watcher.observe(link);
})();
