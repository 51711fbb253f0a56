//! A folder of safetensors: config.json, one file or shards with an index, and what stands beside
//! them.
//!
//! It must never know a family; the `safetensors` crate checks headers, and this checks the rest.
//!
//! Start reading at [`SafeTensorsFolder::open`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Component, Path};

use safetensors::{Dtype, SafeTensors};

use crate::hf_config::HfConfig;
use crate::mapped::MappedFile;
use crate::{ModelError, TensorType, TensorView};

/// The file that names a safetensors folder's architecture.
pub(crate) const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// A JSON file beside the weights; the largest, tokenizer.json, is not read here.
pub(crate) const JSON_LIMIT_BYTES: u64 = 16 << 20;
const MAX_SHARDS: usize = 1_024;
/// The length of the header, before the header.
const HEADER_LEN_BYTES: usize = 8;

/// The mapped files of a folder and one index over all tensors.
#[derive(Debug)]
pub(crate) struct SafeTensorsFolder {
    shards: Vec<MappedFile>,
    tensors: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    shard_idx: usize,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Range<usize>,
}

impl SafeTensorsFolder {
    /// Maps every weight file of the folder and reads their headers.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(crate) fn open(folder: &Path) -> Result<SafeTensorsFolder, ModelError> {
        let index = folder.join(INDEX);
        if !index.exists() {
            return SafeTensorsFolder::open_file(&folder.join(SINGLE));
        }
        let mut all = SafeTensorsFolder { shards: Vec::new(), tensors: HashMap::new() };
        let weight_map = read_index(&index).map_err(|error| error.in_file(&index))?;
        let files: BTreeSet<&String> = weight_map.values().collect();
        if files.len() > MAX_SHARDS {
            let what = "the number of shards".to_owned();
            let (value, limit) = (files.len() as u64, MAX_SHARDS as u64);
            return Err(ModelError::TooLarge { what, value, limit }.in_file(&index));
        }
        for file in files {
            all.add(&folder.join(file))?;
        }
        for (name, file) in &weight_map {
            let held = all.tensors.get(name).map(|entry| all.shards[entry.shard_idx].path());
            if held != Some(folder.join(file).as_path()) {
                let error = ModelError::MissingTensor { name: name.clone() };
                return Err(error.in_file(&folder.join(file)));
            }
        }
        Ok(all)
    }

    /// Maps one file that stands alone.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_file(path: &Path) -> Result<SafeTensorsFolder, ModelError> {
        let mut all = SafeTensorsFolder { shards: Vec::new(), tensors: HashMap::new() };
        all.add(path)?;
        Ok(all)
    }

    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let file = MappedFile::open(path)?;
        let (header_len, metadata) = SafeTensors::read_metadata(file.bytes())
            .map_err(|source| ModelError::SafeTensors { source }.in_file(path))?;
        let data_begin = HEADER_LEN_BYTES + header_len;
        for (name, info) in metadata.tensors() {
            let (begin, end) = info.data_offsets;
            let entry = Entry {
                shard_idx: self.shards.len(),
                shape: info.shape.clone(),
                dtype: info.dtype,
                bytes: data_begin + begin..data_begin + end,
            };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(ModelError::Duplicate { what: "tensor", name }.in_file(path));
            }
        }
        self.shards.push(file);
        Ok(())
    }

    /// The mapped files, by name.
    pub(crate) fn files(&self) -> impl Iterator<Item = &MappedFile> {
        self.shards.iter()
    }

    /// Names of all tensors, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape and type.
    ///
    /// # Errors
    /// `Unsupported` when the type is none of F32, F16 and BF16.
    pub(crate) fn info(&self, name: &str) -> Result<Option<(&[usize], TensorType)>, ModelError> {
        let Some(entry) = self.tensors.get(name) else { return Ok(None) };
        let dtype = match entry.dtype {
            Dtype::F32 => TensorType::F32,
            Dtype::F16 => TensorType::F16,
            Dtype::BF16 => TensorType::BF16,
            other => {
                let what = format!("tensor {name}: the type");
                let found = format!("{other:?}");
                return Err(ModelError::unsupported(what, found, "F32, F16 and BF16"));
            }
        };
        Ok(Some((&entry.shape, dtype)))
    }

    /// A tensor's bytes, straight from the map.
    ///
    /// # Errors
    /// As [`Self::info`].
    pub(crate) fn tensor(&self, name: &str) -> Result<Option<TensorView<'_>>, ModelError> {
        let Some((shape, dtype)) = self.info(name)? else { return Ok(None) };
        let entry = &self.tensors[name];
        let data = &self.shards[entry.shard_idx].bytes()[entry.bytes.clone()];
        Ok(Some(TensorView { shape: shape.to_vec(), dtype, data: Cow::Borrowed(data) }))
    }
}

/// Tensor name to file name; every file name is checked to stay inside of the folder.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    const MAP: &str = "weight_map";
    let index = HfConfig::read(path, JSON_LIMIT_BYTES)?;
    let map = index.typed(MAP, "an object", serde_json::Value::as_object)?;
    let map = map.ok_or_else(|| ModelError::MissingKey { key: MAP.to_owned() })?;
    let mut files = BTreeMap::new();
    for (name, file) in map {
        let inside = file.as_str().filter(|file| is_plain_name(file));
        let file = inside.ok_or_else(|| {
            ModelError::invalid(format!("{MAP}.{name}"), file, "the name of a file in the folder")
        })?;
        files.insert(name.clone(), file.to_owned());
    }
    Ok(files)
}

/// Whether a name is one file in whatever folder it is joined to, and neither hidden nor elsewhere.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one =
        matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    one && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}
