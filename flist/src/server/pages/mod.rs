//! Pages for people with a browser: repos, what a repo holds, a tag, a flist. Every link is relative, so they
//! work behind a proxy under whatever path it gives the hub.

mod html;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use html::{Html, date, length};

use super::Hub;
use super::answer::{Refusal, on_disk};
use super::contents::Summary;
use super::digests::Digests;
use super::layout::{Found, Object, TAG_PREFIX};
use super::listing::{describe, leads_to_tag};
use super::tags::{Tagged, tagged_flist};
use crate::hub::{FlistName, Light, ReleaseVersion, TagName, check_component, target_name};

/// `GET /`: the repos.
pub(super) async fn start(State(hub): State<Arc<Hub>>) -> Result<Response, Refusal> {
    let repos = on_disk(move || hub.layout.repos().map_err(Refusal::failed("list the repos"))).await?;
    let row =
        |(repo, updated): (String, i64)| cell(Html::default().link("./", &[&repo], &repo)).add(time(updated));
    let rows = repos.into_iter().map(row).collect();
    let page = Html::page("Repos", "./", None);
    Ok(page.table("<th>Repo</th><th>Changed</th>", rows, "Nothing has been published yet.").answer())
}

/// `GET /<repo>`: its channels, tags and flists.
pub(super) async fn repo(State(hub): State<Arc<Hub>>, Path(repo): Path<String>) -> Result<Response, Refusal> {
    check_component(&repo).map_err(|_| Refusal::Page)?;
    on_disk(move || {
        let entries = hub.layout.entries(&repo).map_err(Refusal::failed(format!("list repo {repo}")))?;
        Ok(repo_page(&repo, entries.ok_or(Refusal::Page)?).answer())
    })
    .await
}

/// An address with a `/` too many at its end: the links of a page hold without it. The way there is relative,
/// as every link is.
pub(super) async fn without_slash(uri: Uri) -> Result<Response, Refusal> {
    let last = uri.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let to = HeaderValue::try_from(format!("../{last}")).map_err(|_| Refusal::Page)?;
    Ok((StatusCode::PERMANENT_REDIRECT, [(LOCATION, to)]).into_response())
}

/// `GET /<repo>/tags/<tag>`: what the tag points to.
pub(super) async fn tag(
    State(hub): State<Arc<Hub>>,
    Path((repo, tag)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let tag = TagName::new(&repo, &tag).map_err(|_| Refusal::Page)?;
    let shown = tag.clone();
    let entries = on_disk(move || {
        hub.layout.tag_entries(&tag).map_err(Refusal::failed(format!("list tag {tag}")))?.ok_or(Refusal::Page)
    });
    let row = |entry: Tagged| {
        let size = match entry.destination {
            Some((size, _)) => number(&length(size)),
            None => Html::default().raw("<td class=\"n\">missing</td>"),
        };
        let name = Html::default().link("./", &[shown.tag(), &entry.name], &entry.name);
        let to = match tagged_flist(shown.repo(), &entry.target) {
            Some(to) => flist_link("../../", &to),
            None => Html::default().text(&entry.target),
        };
        cell(name).add(cell(to)).add(size).add(time(entry.linked))
    };
    let rows = entries.await?.into_iter().map(row).collect();
    let head = "<th>Package</th><th>Flist</th><th class=\"n\">Size</th><th>Tagged</th>";
    let page = Html::page(&format!("Tag {}", shown.tag()), "../../", Some(shown.repo()));
    Ok(page.table(head, rows, "This tag is empty.").answer())
}

/// `GET /<repo>/<name>.flist.md`: what a flist is and what is in it.
pub(super) async fn flist(hub: Arc<Hub>, name: FlistName) -> Result<Response, Refusal> {
    let turn = hub.turn_to_parse().await;
    on_disk(move || {
        let _turn = turn;
        let failed = || Refusal::failed(format!("describe flist {name}"));
        let light = describe(&hub, &name).map_err(failed())?.ok_or(Refusal::Page)?;
        let Some(file) = hub.layout.open_flist(&name).map_err(failed())? else {
            return Ok(dangling_page(&name, &light).answer());
        };
        let known = Known::of(&hub, &file).map_err(failed())?;
        Ok(flist_page(&name, &light, &known).answer())
    })
    .await
}

/// What is known of one opened flist; all of the same content.
struct Known {
    size: u64,
    modified: i64,
    digests: Digests,
    summary: Arc<Result<Summary, String>>,
}

impl Known {
    fn of(hub: &Hub, file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let (digests, summary) = (hub.digests.of(file, &metadata)?, Summary::of(hub, file)?);
        Ok(Self { size: metadata.len(), modified: metadata.mtime(), digests, summary })
    }
}

fn repo_page(repo: &str, entries: Vec<Found>) -> Html {
    let (mut channels, mut tags, mut flists) = (Vec::new(), Vec::new(), Vec::new());
    for Found { name, object, size, modified } in entries {
        match object {
            Object::Link(to) => {
                let shown = Html::default();
                let shown = match name.ends_with(".flist") {
                    true => shown.link("./", &[repo, &format!("{name}.md")], &name),
                    false => shown.text(&name),
                };
                channels.push(cell(shown).add(cell(target("./", repo, &to))).add(time(modified)));
            }
            Object::Directory => {
                if let Some(tag) = name.strip_prefix(TAG_PREFIX) {
                    let link = Html::default().link("./", &[repo, "tags", tag], tag);
                    tags.push(cell(link).add(time(modified)));
                }
            }
            Object::File if name.ends_with(".flist") => {
                let link = Html::default().link("./", &[repo, &format!("{name}.md")], &name);
                let download = Html::default().link("./", &[repo, &name], "download");
                flists.push(cell(link).add(number(&length(size))).add(time(modified)).add(cell(download)));
            }
            Object::File => {}
        }
    }
    Html::page(repo, "./", None)
        .raw("<h2>Channels</h2>\n")
        .table("<th>Name</th><th>Points to</th><th>Moved</th>", channels, "No links.")
        .raw("<h2>Tags</h2>\n")
        .table("<th>Tag</th><th>Changed</th>", tags, "No tags.")
        .raw("<h2>Flists</h2>\n")
        .table("<th>Name</th><th class=\"n\">Size</th><th>Changed</th><th></th>", flists, "No flists.")
}

fn flist_page(name: &FlistName, light: &Light, known: &Known) -> Html {
    let plain = |text: &str| Html::default().text(text);
    let to = light.target.as_deref();
    // A link is of the version that it points to.
    let destination = to.and_then(|to| target_name(name.repo(), to).ok());
    let version = ReleaseVersion::in_name(destination.as_ref().unwrap_or(name));
    let mut facts = vec![("Version", plain(&version.to_string()))];
    facts.extend(to.map(|to| ("Points to", target("../", name.repo(), to))));
    facts.push(("Size", plain(&length(known.size))));
    facts.push(("Changed", plain(&date(known.modified))));
    facts.push(("SHA-256", code(&known.digests.sha256.to_string())));
    facts.push(("MD5", code(&hex::encode(known.digests.md5))));
    facts.push(("Download", Html::default().link("./", &[name.file()], name.file())));
    let page = list(Html::page(name.stem(), "../", Some(name.repo())), facts);
    match known.summary.as_ref() {
        Ok(summary) => content(page, summary),
        Err(reason) => {
            page.raw("<h2>Content</h2>\n<p class=\"note\">Not shown: ").text(reason).raw(".</p>\n")
        }
    }
}

fn content(page: Html, summary: &Summary) -> Html {
    let counts = &summary.counts;
    let count = |count: u64| Html::default().text(&count.to_string());
    let mut facts = vec![
        ("Files", Html::default().text(&format!("{} ({})", counts.regular, length(counts.bytes)))),
        ("Directories", count(counts.directory)),
        ("Symlinks", count(counts.symlink)),
        ("Devices, pipes, sockets", count(counts.special)),
        ("Blocks", count(summary.blocks as u64)),
    ];
    facts.extend(summary.routes.iter().map(|route| ("Blocks at", code(route))));
    let page = list(page.raw("<h2>Content</h2>\n"), facts);
    let row = |(key, value): (&String, &String)| {
        cell(Html::default().text(key)).add(cell(Html::default().text(value)))
    };
    let rows = summary.tags.iter().map(row).collect();
    page.raw("<h2>Metadata</h2>\n").table("<th>Key</th><th>Value</th>", rows, "None.")
}

fn dangling_page(name: &FlistName, light: &Light) -> Html {
    let to = target("../", name.repo(), light.target.as_deref().unwrap_or_default());
    list(Html::page(name.stem(), "../", Some(name.repo())), vec![("Points to", to)])
        .raw("<p class=\"note\">There is no such flist on this hub.</p>\n")
}

/// Where a link of `repo` points to, itself a link where that is a page of this hub.
fn target(up: &'static str, repo: &str, stored: &str) -> Html {
    let html = Html::default();
    if leads_to_tag(stored) {
        let mut parts = stored.trim_start_matches("../").splitn(2, '/');
        if let (Some(repo), Some(tag)) =
            (parts.next(), parts.next().and_then(|tag| tag.strip_prefix(TAG_PREFIX)))
        {
            return html.link(up, &[repo, "tags", tag], &format!("{repo}/tags/{tag}"));
        }
    }
    match target_name(repo, stored) {
        Ok(name) => flist_link(up, &name),
        Err(_) => html.text(stored),
    }
}

fn flist_link(up: &'static str, name: &FlistName) -> Html {
    Html::default().link(up, &[name.repo(), &format!("{}.md", name.file())], &name.to_string())
}

fn list(page: Html, facts: Vec<(&'static str, Html)>) -> Html {
    let add = |html: Html, (name, value): (&'static str, Html)| {
        html.raw("<dt>").raw(name).raw("</dt><dd>").add(value).raw("</dd>\n")
    };
    facts.into_iter().fold(page.raw("<dl>\n"), add).raw("</dl>\n")
}

fn cell(content: Html) -> Html {
    Html::default().raw("<td>").add(content).raw("</td>")
}

fn number(text: &str) -> Html {
    Html::default().raw("<td class=\"n\">").text(text).raw("</td>")
}

fn time(seconds: i64) -> Html {
    Html::default().raw("<td class=\"t\">").text(&date(seconds)).raw("</td>")
}

fn code(text: &str) -> Html {
    Html::default().raw("<code>").text(text).raw("</code>")
}
