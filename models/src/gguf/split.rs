//! A GGUF model in one file or in several shards, with one index over all of their tensors.
//!
//! It must never know what the tensors are for.
//!
//! Start reading at [`GgufFiles::open`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::header::{Header, TensorInfo};
use super::metadata::Metadata;
use crate::mapped::MappedFile;
use crate::{ModelError, TensorView};

const MAX_SHARDS: u64 = 1_024;

/// The mapped file or files of one model.
#[derive(Debug)]
pub(crate) struct GgufFiles {
    shards: Vec<MappedFile>,
    metadata: Metadata,
    tensors: HashMap<String, (usize, TensorInfo)>,
}

impl GgufFiles {
    /// Opens the file; when it is a shard, all of its siblings too.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(crate) fn open(path: &Path) -> Result<GgufFiles, ModelError> {
        let first = open_one(path)?;
        let shards = match first.1.metadata.u64("split.count").map_err(|e| e.in_file(path))? {
            None | Some(0 | 1) => vec![first],
            Some(n_shards) => open_shards(path, n_shards)?,
        };
        let wanted = shards[0].1.metadata.u64("split.tensors.count").ok().flatten();
        let mut files = GgufFiles {
            metadata: shards[0].1.metadata.clone(),
            shards: Vec::new(),
            tensors: HashMap::new(),
        };
        for (shard_idx, (file, header)) in shards.into_iter().enumerate() {
            for info in header.tensors {
                let name = info.name.clone();
                if files.tensors.insert(name.clone(), (shard_idx, info)).is_some() {
                    let error = ModelError::Duplicate { what: "tensor", name };
                    return Err(error.in_file(file.path()));
                }
            }
            files.shards.push(file);
        }
        let n_tensors = files.tensors.len();
        match wanted {
            Some(wanted) if wanted != n_tensors as u64 && files.shards.len() > 1 => {
                let what = "split.tensors.count";
                let found = format!("{n_tensors}, the number of tensors in all shards");
                Err(ModelError::invalid(what, wanted, found).in_file(path))
            }
            _ => Ok(files),
        }
    }

    /// The first shard's metadata.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The first shard's metadata, to take the vocabulary out of it.
    pub(crate) fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// The first shard's metadata with the vocabulary, and all tensors in the files' order.
    pub(crate) fn reread(&self) -> Result<(Metadata, Vec<TensorInfo>), ModelError> {
        let mut metadata = None;
        let mut tensors = Vec::new();
        for shard in &self.shards {
            let header = Header::parse(shard.bytes()).map_err(|e| e.in_file(shard.path()))?;
            metadata.get_or_insert(header.metadata);
            tensors.extend(header.tensors);
        }
        Ok((metadata.unwrap_or_default(), tensors))
    }

    /// The mapped files, in order.
    pub(crate) fn files(&self) -> impl Iterator<Item = &MappedFile> {
        self.shards.iter()
    }

    /// Every tensor, in no order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.values().map(|(_, info)| info)
    }

    /// What the header says of a tensor.
    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(_, info)| info)
    }

    /// A tensor's bytes, straight from the map.
    pub(crate) fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let (shard_idx, info) = self.tensors.get(name)?;
        let data = &self.shards[*shard_idx].bytes()[info.bytes.clone()];
        Some(TensorView { shape: info.shape.clone(), dtype: info.dtype, data: Cow::Borrowed(data) })
    }
}

fn open_one(path: &Path) -> Result<(MappedFile, Header), ModelError> {
    let file = MappedFile::open(path)?;
    let header = Header::parse(file.bytes()).map_err(|error| error.in_file(path))?;
    Ok((file, header))
}

fn open_shards(path: &Path, n_shards: u64) -> Result<Vec<(MappedFile, Header)>, ModelError> {
    if n_shards > MAX_SHARDS {
        let what = "split.count".to_owned();
        let error = ModelError::TooLarge { what, value: n_shards, limit: MAX_SHARDS };
        return Err(error.in_file(path));
    }
    let mut shards = Vec::new();
    for shard_idx in 0..n_shards {
        let shard_path = sibling(path, shard_idx, n_shards).map_err(|e| e.in_file(path))?;
        let (file, header) = open_one(&shard_path)?;
        for (key, wanted) in [("split.count", n_shards), ("split.no", shard_idx)] {
            let found = header.metadata.u64(key).map_err(|e| e.in_file(&shard_path))?;
            if found != Some(wanted) {
                let found = found.map_or("missing".to_owned(), |found| found.to_string());
                return Err(
                    ModelError::invalid(key, found, wanted.to_string()).in_file(&shard_path)
                );
            }
        }
        shards.push((file, header));
    }
    Ok(shards)
}

/// The path of another shard: `NAME-00002-of-00003.gguf`, counted from 1.
fn sibling(path: &Path, shard_idx: u64, n_shards: u64) -> Result<PathBuf, ModelError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let tail = format!("-of-{n_shards:05}.gguf");
    let stem = name.strip_suffix(&tail).and_then(|stem| {
        let (stem, number) = stem.split_at_checked(stem.len().checked_sub(6)?)?;
        let digits = number.strip_prefix('-')?;
        digits.bytes().all(|digit| digit.is_ascii_digit()).then_some(stem)
    });
    let stem = stem.ok_or_else(|| {
        let wanted = format!("NAME-00001{tail}, because it is one of {n_shards} shards");
        ModelError::invalid("the file name", format!("{name:?}"), wanted)
    })?;
    Ok(path.with_file_name(format!("{stem}-{:05}{tail}", shard_idx + 1)))
}
