
// ---- pictures: each is in the gallery once. Where a statement names one it is shown small when it comes into sight;
// its link shows it large.

(() => {
  const figureOf = (link) => document.getElementById(decodeURIComponent(link.hash.slice(1)));
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      const small = figureOf(target).querySelector("img").cloneNode();
      // The link has the picture's name, and leads to the words.
      small.alt = "";
      target.append(small);
    }
  });
  for (const link of document.querySelectorAll("a.picture")) watcher.observe(link);

  const viewer = document.querySelector(".viewer");
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.picture");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const large = figureOf(link).cloneNode(true);
    large.removeAttribute("id");
    viewer.append(large);
    viewer.showModal();
  });
  if (viewer) viewer.addEventListener("close", () => viewer.querySelector("figure").remove());
})();
