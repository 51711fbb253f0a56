//! A dataset's contract: one JSON Schema of any draft, known by the digest of its bytes.
//!
//! It must never fetch or open what the schema refers to: a `$ref` out of the document is refused.
//!
//! Start reading at [`Contract::load`].

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

use crate::DataError;
use crate::error::io_error;
use crate::home::sync_folder;

const MAX_CONTRACT_BYTES: u64 = 4 << 20;

pub(crate) struct Contract {
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: blake3::Hash,
    validator: Validator,
}

/// The first way in which a value breaks the schema.
pub(crate) struct Broken {
    pub(crate) keyword: String,
    /// A JSON pointer into the value.
    pub(crate) at: String,
    /// Without the value itself.
    pub(crate) message: String,
}

impl Contract {
    pub(crate) fn load(path: &Path) -> Result<Contract, DataError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_CONTRACT_BYTES + 1).read_to_end(&mut bytes))
            .map_err(io_error("read the contract", path))?;
        if bytes.len() as u64 > MAX_CONTRACT_BYTES {
            let path = path.to_owned();
            return Err(DataError::ContractTooLarge { path, limit_bytes: MAX_CONTRACT_BYTES });
        }
        let not_json = |error: serde_json::Error| DataError::ContractNotJson {
            path: path.to_owned(),
            detail: error.to_string(),
        };
        let schema: Value = serde_json::from_slice(&bytes).map_err(not_json)?;
        let validator = jsonschema::options().offline().build(&schema).map_err(|error| {
            DataError::InvalidContract {
                path: path.to_owned(),
                at: error.instance_path().to_string(),
                detail: error.to_string().chars().take(500).collect(),
            }
        })?;
        Ok(Contract { hash: blake3::hash(&bytes), bytes, validator })
    }

    pub(crate) fn validate(&self, value: &Value) -> Result<(), Broken> {
        self.validator.validate(value).map_err(|error| Broken {
            keyword: error.kind().keyword().to_owned(),
            at: error.instance_path().to_string(),
            message: error.masked().to_string(),
        })
    }

    /// Makes this the contract of ingests that name none.
    pub(crate) fn install(&self, path: &Path) -> Result<(), DataError> {
        let folder = path.parent().expect("a contract lies in a folder: this is a bug");
        fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
        let staged = path.with_extension("json.tmp");
        File::create(&staged)
            .and_then(|mut file| file.write_all(&self.bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&staged, path))
            .map_err(io_error("write the contract", path))?;
        sync_folder(folder)
    }
}
