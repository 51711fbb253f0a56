//! Versions between homes by way of a store in memory, and of one that fails, forgets and ignores what it is told to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod forged;
mod harm;
mod moves;
mod stores;
mod two;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use lm_data::{DataHome, IngestOptions, Manifest, Pick, ingest};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tempfile::TempDir;

use crate::{Moved, Place, RemoteError, Transferred, pull, push};

const NAME: &str = "notes";
const PREFIX: &str = "team/data";
const CONTRACT: &str = "format = 1\n[schema]\nrequired = [\"text\"]\n\
                        [schema.properties.text]\ntype = \"string\"\n";

/// A home of its own.
struct Home {
    folder: TempDir,
    data: DataHome,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        let data = DataHome(folder.path().join("data"));
        Home { folder, data }
    }

    /// Publishes rows of these texts, beside those of the newest version.
    fn add(&self, source: &str, texts: &[&str]) -> Manifest {
        self.add_under(CONTRACT, source, texts)
    }

    fn add_under(&self, terms: &str, source: &str, texts: &[&str]) -> Manifest {
        let rows: String = texts.iter().map(|text| format!("{{\"text\":\"{text}\"}}\n")).collect();
        let path = self.folder.path().join(source);
        fs::write(&path, rows).unwrap();
        let contract = self.folder.path().join("contract.toml");
        fs::write(&contract, terms).unwrap();
        let options =
            IngestOptions { contract: Some(contract), append: true, ..IngestOptions::default() };
        ingest(&self.data, NAME, &[path], &options, &mut |_| {}).unwrap().manifest
    }

    /// A home with three versions, of one file of rows each beside those of their parents.
    fn with_three() -> (Home, Vec<Manifest>) {
        let home = Home::new();
        let versions = ["a", "b", "c"].map(|text| home.add(&format!("{text}.jsonl"), &[text]));
        (home, versions.to_vec())
    }

    fn push(&self, place: &Place, pick: Pick<'_>) -> Result<Moved, RemoteError> {
        push(place, &self.data, NAME, pick, &|_| {})
    }

    fn pull(&self, place: &Place, pick: Pick<'_>) -> Result<Moved, RemoteError> {
        pull(place, &self.data, NAME, pick, &|_| {})
    }

    /// The contract that the next ingest uses.
    fn contract(&self) -> PathBuf {
        self.data.0.join("contracts").join("notes.toml")
    }

    fn dataset(&self) -> PathBuf {
        self.data.0.join("datasets").join(NAME)
    }

    /// The files of rows and of versions by their paths in the dataset.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for folder in ["objects", "versions"] {
            collect(&self.dataset(), folder, &mut files);
        }
        files
    }
}

fn collect(root: &FilePath, below: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(root.join(below)).into_iter().flatten() {
        let entry = entry.unwrap();
        let path = format!("{below}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            collect(root, &path, files);
        } else {
            files.insert(path, fs::read(entry.path()).unwrap());
        }
    }
}

/// A place in a store.
fn place(store: Arc<dyn ObjectStore>) -> Place {
    Place::over(store, "bucket", Path::from(PREFIX)).unwrap()
}

/// An empty store, and a place in it.
fn memory() -> (Arc<InMemory>, Place) {
    let store = Arc::new(InMemory::new());
    let place = place(store.clone());
    (store, place)
}

/// The key of a file of the dataset.
fn key(file: &str) -> Path {
    Path::from(format!("{PREFIX}/datasets/{NAME}/{file}"))
}

/// What a store holds of the dataset, by the paths in the dataset.
fn stored(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let prefix = format!("{PREFIX}/datasets/{NAME}/");
    place.runtime.block_on(async {
        let objects: Vec<_> = place.store.list(None).try_collect().await.unwrap();
        let mut stored = BTreeMap::new();
        for object in objects {
            let bytes = place.store.get(&object.location).await.unwrap().bytes().await.unwrap();
            let location = object.location.to_string();
            let file = location.strip_prefix(&prefix).unwrap().to_owned();
            stored.insert(file, bytes.to_vec());
        }
        stored
    })
}

fn put(place: &Place, file: &str, bytes: Vec<u8>) {
    let (key, bytes) = (key(file), PutPayload::from_bytes(Bytes::from(bytes)));
    place.runtime.block_on(place.store.put(&key, bytes)).unwrap();
}

fn delete(place: &Place, file: &str) {
    place.runtime.block_on(place.store.delete(&key(file))).unwrap();
}
