/** Style sheet of report.html. */
export const REPORT_STYLE = `
:root { --ground:#f7f7f5; --card:#fff; --ink:#1c1d21; --soft:#6b6e76; --line:#e4e4e0; --accent:#3b82f6; --best:#e8f1ff; }
@media (prefers-color-scheme: dark) {
  :root { --ground:#131417; --card:#1c1e22; --ink:#e9e9e6; --soft:#9a9da6; --line:#2d3036; --accent:#60a5fa; --best:#1d3150; }
}
* { box-sizing:border-box; }
body { margin:0; background:var(--ground); color:var(--ink); font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif; }
header, main { max-width:1080px; margin:0 auto; padding:0 24px; }
header { padding-top:40px; }
h1 { margin:0 0 16px; font-size:28px; font-weight:650; letter-spacing:-.02em; line-height:1.2; }
h2 { margin:0 0 12px; font-size:17px; font-weight:650; letter-spacing:-.01em; }
dl { display:flex; flex-wrap:wrap; gap:8px; margin:0 0 24px; }
dl div { padding:3px 10px; border:1px solid var(--line); border-radius:999px; background:var(--card); font-size:13px; display:flex; gap:6px; }
dt { color:var(--soft); }
dd { margin:0; font-weight:550; font-variant-numeric:tabular-nums; }
section { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:22px 24px; margin:0 0 20px; }
.lead, .footer { color:var(--soft); font-size:13px; margin:0 0 16px; }
.footer { margin:14px 0 0; }
.scroll { overflow-x:auto; }
table { width:100%; border-collapse:collapse; font-variant-numeric:tabular-nums; }
th, td { padding:7px 12px; text-align:right; white-space:nowrap; }
th[scope=row] { text-align:left; font-weight:500; padding-left:0; }
thead th { color:var(--soft); font-weight:500; font-size:13px; padding-bottom:2px; }
thead th[colspan] { text-align:center; color:var(--ink); font-weight:600; }
tbody tr { border-top:1px solid var(--line); }
td.best { font-weight:700; background:var(--best); }
td.absent { color:var(--soft); }
.edge { border-left:1px solid var(--line); }
tr.ceiling { color:var(--soft); border-top:2px solid var(--line); font-style:italic; }
.legend { list-style:none; display:flex; flex-wrap:wrap; gap:4px 18px; padding:0; margin:0 0 14px; font-size:13px; }
.legend span { display:inline-block; width:14px; height:4px; border-radius:2px; margin-right:7px; vertical-align:middle; }
.charts { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr)); gap:20px; }
figure { margin:0; }
figure svg { width:100%; height:auto; display:block; }
.item { display:grid; grid-template-columns:160px 1fr; gap:24px; padding:16px 0; border-top:1px solid var(--line); }
.item:first-of-type { border-top:0; padding-top:4px; }
.item ol { list-style:none; margin:0; padding:0; display:grid; grid-template-columns:repeat(6,1fr); gap:14px; align-items:start; }
.picture { display:block; width:100%; aspect-ratio:1; object-fit:cover; border-radius:10px; background:var(--line); }
.picture.small { image-rendering:pixelated; }
.picture.none { display:grid; place-items:center; color:var(--soft); font-size:11px; }
.query .picture { outline:2px solid var(--accent); outline-offset:2px; }
.name { display:-webkit-box; -webkit-box-orient:vertical; -webkit-line-clamp:3; overflow:hidden; font-size:12px; line-height:1.35; color:var(--soft); }
.query .name { margin-top:9px; font-size:13px; font-weight:600; color:var(--ink); }
.note { padding:0 6px; border-radius:999px; background:var(--best); color:var(--accent); font-size:11px; font-weight:600; }
.cosine { display:block; margin-top:6px; font-size:12px; font-weight:600; font-variant-numeric:tabular-nums; }
.meter { display:block; height:3px; border-radius:2px; background:var(--line); margin:2px 0 5px; overflow:hidden; }
.meter span { display:block; height:100%; background:var(--accent); }
section ul:not(.legend) { margin:0; padding-left:20px; }
@media (max-width:720px) { .item { grid-template-columns:1fr; } .query { max-width:160px; } .item ol { grid-template-columns:repeat(3,1fr); } }
`;
