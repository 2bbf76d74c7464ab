// Asks each service whether it answers, and shows the name of the domain.
async function probe(row) {
  const cell = row.querySelector("dd");
  try {
    const answer = await fetch(row.dataset.probe, { cache: "no-store" });
    cell.textContent = answer.ok ? "running" : `answers with status ${answer.status}`;
    cell.className = answer.ok ? "good" : "bad";
    return answer;
  } catch {
    cell.textContent = "does not answer";
    cell.className = "bad";
    return null;
  }
}

for (const row of document.querySelectorAll("[data-probe]")) {
  probe(row).then(async (answer) => {
    if (!answer?.ok || row.dataset.probe !== "/auth/authority") return;
    const { name, description } = await answer.json();
    document.getElementById("domain").textContent = description || name;
  });
}
