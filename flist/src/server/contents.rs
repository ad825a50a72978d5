//! What is in a flist: counts for people, the whole list for programs.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::answer::{Refusal, json, on_disk};
use super::download::{CHUNK, stream};
use super::listing::{known_flist, not_found};
use super::{Hub, python_json};
use crate::format;
use crate::hub::{FlistName, MAX_FLIST};
use crate::tree::{Kind, Limits, Tree};

/// Most routes and tags of a flist that a summary keeps.
const MAX_SHOWN: usize = 20;

/// `GET /api/flist/<repo>/<flist>`: every entry with its size, and counts, as the 0-hub says it. `failure` is
/// what the 0-hub could not read; here a flist is read as a whole or refused.
pub(super) async fn full(
    State(hub): State<Arc<Hub>>,
    Path((repo, flist)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let turn = hub.turn_to_parse().await;
    let (file, length) = on_disk(move || {
        let _turn = turn;
        let name = known_flist(&hub, &repo, &flist)?;
        let tree = read_named(&hub, &name)?;
        // On disk, because a slow client would keep it in memory for long.
        dump(&hub, &tree).map_err(Refusal::failed(format!("list the content of {name}")))
    })
    .await?;
    let headers = [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_LENGTH, length.to_string())];
    Ok((headers, stream(file, length, CHUNK)).into_response())
}

/// `GET /api/flist/<repo>/<flist>/metadata`: the tags in the flist as one JSON object.
pub(super) async fn metadata(
    State(hub): State<Arc<Hub>>,
    Path((repo, flist)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let turn = hub.turn_to_parse().await;
    let tags = on_disk(move || {
        let _turn = turn;
        let name = known_flist(&hub, &repo, &flist)?;
        Ok(read_named(&hub, &name)?.tags)
    });
    Ok(json(&tags.await?))
}

/// A flist in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) counts: Counts,
    /// Blocks, each counted once.
    pub(super) blocks: usize,
    /// The first of its tags, sorted.
    pub(super) tags: BTreeMap<String, String>,
    /// The first of its routes, as `00-ff URL`, without secrets.
    pub(super) routes: Vec<String>,
}

/// How many entries of which kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) regular: u64,
    pub(super) symlink: u64,
    pub(super) directory: u64,
    /// Devices, pipes and sockets.
    pub(super) special: u64,
    /// Bytes of all files.
    pub(super) bytes: u64,
}

impl Summary {
    /// Of a file, from the cache where it is known; the inner error is the reason why it cannot be read.
    pub(super) fn of(hub: &Hub, file: &File) -> io::Result<Arc<Result<Self, String>>> {
        let metadata = file.metadata()?;
        hub.summaries.get_or(&metadata, || Ok(Arc::new(read(file)?.map(|tree| Self::of_tree(&tree)))))
    }

    fn of_tree(tree: &Tree) -> Self {
        let blocks: HashSet<_> =
            tree.files().flat_map(|(_, _, content)| content.blocks.iter().map(|block| block.id)).collect();
        let route = |route: &crate::tree::Route| {
            format!("{:02x}-{:02x} {}", route.first, route.last, without_secrets(&route.url))
        };
        let tags = tree.tags.iter().take(MAX_SHOWN).map(|(key, value)| (key.clone(), value.clone()));
        Self {
            counts: Counts::of(tree),
            blocks: blocks.len(),
            tags: tags.collect(),
            routes: tree.routes.iter().take(MAX_SHOWN).map(route).collect(),
        }
    }
}

impl Counts {
    fn of(tree: &Tree) -> Self {
        let mut counts = Self { bytes: tree.total_bytes(), ..Self::default() };
        for (_, entry) in tree.iter() {
            let count = match entry.kind {
                Kind::File(_) => &mut counts.regular,
                Kind::Symlink(_) => &mut counts.symlink,
                Kind::Directory => &mut counts.directory,
                Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo | Kind::Socket => &mut counts.special,
            };
            *count += 1;
        }
        counts
    }
}

/// Reads a flist that was opened; the inner error is the reason why it is no usable one.
pub(super) fn read(mut file: &File) -> io::Result<Result<Tree, String>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_FLIST + 1).read_to_end(&mut bytes)?;
    file.rewind()?;
    Ok(format::parse(&bytes, &Limits::default()).map_err(|error| crate::report(&error)))
}

/// The address of a store as everybody may see it.
pub(super) fn without_secrets(url: &str) -> String {
    match url.parse::<Url>() {
        Ok(mut url) if !url.cannot_be_a_base() => {
            // Both fail only for addresses that cannot have them.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.set_fragment(None);
            url.to_string()
        }
        _ => "(an address that is not understood)".to_owned(),
    }
}

fn read_named(hub: &Hub, name: &FlistName) -> Result<Tree, Refusal> {
    let failed = || Refusal::failed(format!("read flist {name}"));
    let file = hub.layout.open_flist(name).map_err(failed())?;
    let file = file.ok_or_else(|| not_found("source not found"))?;
    let unusable = |reason| {
        Refusal::json(StatusCode::UNPROCESSABLE_ENTITY, format!("cannot read flist {name}: {reason}"))
    };
    read(&file).map_err(failed())?.map_err(unusable)
}

fn dump(hub: &Hub, tree: &Tree) -> io::Result<(File, u64)> {
    let mut out = BufWriter::new(tempfile::tempfile_in(hub.layout.users_path())?);
    python_json::write(&Dump(tree), &mut out)?;
    out.flush()?;
    let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    let length = file.stream_position()?;
    file.rewind()?;
    Ok((file, length))
}

/// The answer of [`full`].
struct Dump<'a>(&'a Tree);

struct Entries<'a>(&'a Tree);

#[derive(Serialize)]
struct DumpEntry {
    size: u64,
    path: String,
}

impl Serialize for Dump<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = Counts::of(self.0);
        let mut dump = serializer.serialize_struct("Dump", 7)?;
        dump.serialize_field("content", &Entries(self.0))?;
        dump.serialize_field("regular", &counts.regular)?;
        dump.serialize_field("symlink", &counts.symlink)?;
        dump.serialize_field("directory", &counts.directory)?;
        dump.serialize_field("special", &counts.special)?;
        dump.serialize_field("failure", &0)?;
        dump.serialize_field("fullsize", &counts.bytes)?;
        dump.end()
    }
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(path, entry)| DumpEntry {
            size: match &entry.kind {
                Kind::File(content) => content.size,
                Kind::Symlink(target) => target.len() as u64,
                _ => 0,
            },
            path: format!("/{path}"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_stores_are_shown_without_secrets() {
        for (url, shown) in [
            ("http://hub:8080/store", "http://hub:8080/store"),
            ("zdb://:secret@host:9900/ns", "zdb://host:9900/ns"),
            ("s3://key:secret@host/bucket", "s3://host/bucket"),
            ("https://host/store?signature=secret#secret", "https://host/store"),
            ("dir:///srv/blocks", "dir:///srv/blocks"),
            ("me:secret@host", "(an address that is not understood)"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
