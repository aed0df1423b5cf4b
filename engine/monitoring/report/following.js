// A page of a run under way: asks every second whether its files changed, and takes the new page's content in place of its own.
let seen = "{{ stamp }}";
async function follow() {
  try {
    const answer = await (await fetch(location.pathname.replace(/\/?$/, "/") + "stamp" + location.search)).json();
    const load = document.getElementById("load");
    if (load) load.textContent = answer.load;
    if (answer.stamp !== seen) {
      const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
      const kept = [...document.querySelectorAll("input:checked")].map(input => input.id).filter(Boolean);
      document.querySelector("main").replaceWith(page.querySelector("main"));
      document.title = page.title;
      for (const id of kept) { const input = document.getElementById(id); if (input) input.checked = true; }
      point();
      if (load) document.getElementById("load").textContent = answer.load;
      seen = answer.stamp;
    }
    document.body.classList.remove("away");
  } catch { document.body.classList.add("away"); }  // the server is gone: the page stays, and says so by its badge's colour
  setTimeout(follow, 1000);
}
follow();
