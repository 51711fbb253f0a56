//! A dataset's contract: a JSON Schema of any draft and the rules that no schema can say, known by the digest
//! of its bytes.
//!
//! It must never fetch or open what a schema refers to: a `$ref` out of the document is refused.
//!
//! Start reading at [`Terms`], then [`Contract::load`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use jsonschema::Validator;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::column::Columns;
use crate::check::minhash::LEAST_SIMILARITY;
use crate::check::rule;
use crate::error::io_error;
use crate::home::sync_folder;
use crate::{DataError, DataHome, Thresholds};

const MAX_CONTRACT_BYTES: u64 = 4 << 20;
const FORMAT: u32 = 1;

/// What `contracts/NAME.toml` says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Terms {
    /// 1.
    pub(crate) format: u32,
    /// The tokenizer of the rules about tokens: a model's name, as `lastmile --model` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokenizer: Option<String>,
    /// Rows are conversations in OpenAI's form.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) chat: bool,
    /// Lists of columns whose values together come only once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unique: Vec<Vec<String>>,
    #[serde(default)]
    pub(crate) thresholds: Shares,
    #[serde(default)]
    pub(crate) text: TextTerms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) near_duplicates: Option<NearDuplicates>,
    /// Columns that others decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) depends: Vec<Dependency>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) columns: BTreeMap<String, ColumnTerms>,
    /// A JSON Schema, written as a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schema: Option<Value>,
}

/// When to warn and when to publish nothing, and for which rules otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shares {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warn: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fail: Option<f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) rules: BTreeMap<String, RuleShares>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleShares {
    pub(crate) warn: Option<f64>,
    pub(crate) fail: Option<f64>,
}

/// What is wanted of texts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextTerms {
    /// The columns that these rules are about; by default every text of the row, nested ones included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) columns: Vec<String>,
    /// Refuse text that was decoded wrongly.
    #[serde(default)]
    pub(crate) mojibake: bool,
    /// Refuse control characters but tab and line ends.
    #[serde(default)]
    pub(crate) control_chars: bool,
    /// Refuse texts of nothing but white space.
    #[serde(default)]
    pub(crate) empty: bool,
    /// Refuse API keys, private keys and passwords in addresses.
    #[serde(default)]
    pub(crate) secrets: bool,
    /// Refuse some of `email`, `phone`, `iban`, `credit_card`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) personal_data: Vec<String>,
    /// Refuse texts that are surely in another language than these, as ISO 639-1 codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) languages: Vec<String>,
    /// All texts of a row have at most so many tokens together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) context_tokens: Option<u64>,
}

/// Rows whose texts are nearly those of an earlier row.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NearDuplicates {
    pub(crate) columns: Vec<String>,
    /// The share of five-character pieces that two texts have in common, from [`LEAST_SIMILARITY`] to 1.
    #[serde(default = "default_similarity")]
    pub(crate) similarity: f64,
}

fn default_similarity() -> f64 {
    0.85
}

/// The columns `on` decide `column`: equal ones never come with different ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dependency {
    pub(crate) on: Vec<String>,
    pub(crate) column: String,
}

/// What is wanted of one column. A name that begins with `/` is a JSON pointer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ColumnTerms {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) min: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) min_chars: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_chars: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) min_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pattern: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) one_of: Option<Vec<Value>>,
    /// The share of rows in which the column may be missing or null; more publish nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_null_share: Option<f64>,
}

const SIMILARITY: &str = "near_duplicates.similarity";
/// What earlier programs took.
const EARLIER_SIMILARITY: f64 = 0.6;

fn not_alike(value: f64, least: f64) -> String {
    format!("is {value}, but must be between {least} and 1")
}

/// A contract that was understood and can be held against rows.
pub(crate) struct Contract {
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: blake3::Hash,
    pub(crate) terms: Terms,
    pub(crate) columns: Columns,
    /// As `contracts/NAME.toml` or `.json`.
    pub(crate) extension: &'static str,
    validator: Option<Validator>,
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
    /// Reads a contract, or a bare JSON Schema when the file ends in `.json` or begins with a brace.
    pub(crate) fn load(path: &Path) -> Result<Contract, DataError> {
        let contract = Contract::of_version(path)?;
        match &contract.terms.near_duplicates {
            Some(near) if near.similarity < LEAST_SIMILARITY => Err(DataError::ContractTerm {
                path: path.to_owned(),
                field: SIMILARITY.to_owned(),
                detail: not_alike(near.similarity, LEAST_SIMILARITY),
            }),
            _ => Ok(contract),
        }
    }

    /// The same of a version that is there: its terms may be those that an earlier program took.
    pub(crate) fn of_version(path: &Path) -> Result<Contract, DataError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_CONTRACT_BYTES + 1).read_to_end(&mut bytes))
            .map_err(io_error("read the contract", path))?;
        if bytes.len() as u64 > MAX_CONTRACT_BYTES {
            let path = path.to_owned();
            return Err(DataError::ContractTooLarge { path, limit_bytes: MAX_CONTRACT_BYTES });
        }
        let is_json = path.extension().is_some_and(|extension| extension != "toml");
        Contract::read(bytes, is_json, path)
    }

    fn read(bytes: Vec<u8>, is_json: bool, path: &Path) -> Result<Contract, DataError> {
        let path = || path.to_owned();
        let terms = if is_json {
            let schema = serde_json::from_slice(&bytes).map_err(|error| {
                DataError::ContractNotJson { path: path(), detail: error.to_string() }
            })?;
            Terms { format: FORMAT, schema: Some(schema), ..Terms::default() }
        } else {
            let text = std::str::from_utf8(&bytes).map_err(|error| error.to_string());
            text.and_then(|text| toml::from_str::<Terms>(text).map_err(|error| error.to_string()))
                .map_err(|detail| DataError::ContractNotToml { path: path(), detail })?
        };
        let wrong =
            |field: String, detail: String| DataError::ContractTerm { path: path(), field, detail };
        if terms.format != FORMAT {
            let detail = format!("is {}, and this program knows {FORMAT}", terms.format);
            return Err(wrong("format".to_owned(), detail));
        }
        terms.check().map_err(|(field, detail)| wrong(field, detail))?;
        let columns = Columns::new(&terms).map_err(|(field, detail)| wrong(field, detail))?;
        let build = |schema: &Value| jsonschema::options().offline().build(schema);
        let validator = terms.schema.as_ref().map(build).transpose().map_err(|error| {
            DataError::InvalidContract {
                path: path(),
                at: error.instance_path().to_string(),
                detail: error.to_string().chars().take(500).collect(),
            }
        })?;
        let extension = if is_json { "json" } else { "toml" };
        Ok(Contract { hash: blake3::hash(&bytes), bytes, terms, columns, extension, validator })
    }

    pub(crate) fn validate(&self, value: &Value) -> Result<(), Broken> {
        let Some(validator) = &self.validator else { return Ok(()) };
        validator.validate(value).map_err(|error| Broken {
            keyword: error.kind().keyword().to_owned(),
            at: error.instance_path().to_string(),
            message: error.masked().to_string(),
        })
    }

    /// The thresholds of a rule: its own, else the contract's, else `default`.
    pub(crate) fn thresholds(&self, rule: &str, default: Thresholds) -> Thresholds {
        let shares = &self.terms.thresholds;
        let own = shares.rules.get(rule).copied().unwrap_or_default();
        Thresholds {
            warn: own.warn.or(shares.warn).unwrap_or(default.warn),
            fail: own.fail.or(shares.fail).unwrap_or(default.fail),
        }
    }

    /// Makes this the contract of ingests that name none.
    pub(crate) fn install(&self, stem: &Path) -> Result<(), DataError> {
        install(stem, self.extension, &self.bytes)
    }
}

/// Makes these bytes the contract of ingests that name none, instead of what there is under either extension.
pub(crate) fn install(stem: &Path, extension: &str, bytes: &[u8]) -> Result<(), DataError> {
    let folder = stem.parent().expect("a contract lies in a folder: this is a bug");
    fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
    let path = stem.with_extension(extension);
    let staged = stem.with_extension("tmp");
    File::create(&staged)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&staged, &path))
        .map_err(io_error("write the contract", &path))?;
    let other = stem.with_extension(if extension == "toml" { "json" } else { "toml" });
    if other.exists() {
        fs::remove_file(&other).map_err(io_error("remove the old contract", &other))?;
    }
    sync_folder(folder)
}

impl Terms {
    /// Whether some rule counts tokens.
    pub(crate) fn counts_tokens(&self) -> bool {
        let of_column = |c: &ColumnTerms| c.min_tokens.is_some() || c.max_tokens.is_some();
        self.text.context_tokens.is_some() || self.columns.values().any(of_column)
    }

    /// Whether some rule compares rows with each other.
    pub(crate) fn crosses_rows(&self) -> bool {
        !self.unique.is_empty() || !self.depends.is_empty() || self.near_duplicates.is_some()
    }

    /// The first term that cannot be meant: its field and what is wrong.
    fn check(&self) -> Result<(), (String, String)> {
        let share = |field: String, value: Option<f64>| match value {
            Some(value) if !(0.0..=1.0).contains(&value) => {
                Err((field, format!("is {value}, but must be between 0 and 1")))
            }
            _ => Ok(()),
        };
        share("thresholds.warn".to_owned(), self.thresholds.warn)?;
        share("thresholds.fail".to_owned(), self.thresholds.fail)?;
        for (name, shares) in &self.thresholds.rules {
            let field = format!("thresholds.rules.{name:?}");
            rule::must_exist(name).map_err(|error| (field.clone(), error.to_string()))?;
            share(format!("{field}.warn"), shares.warn)?;
            share(format!("{field}.fail"), shares.fail)?;
        }
        for (name, column) in &self.columns {
            share(format!("columns.{name}.max_null_share"), column.max_null_share)?;
        }
        if let Some(near) = &self.near_duplicates
            && !(EARLIER_SIMILARITY..=1.0).contains(&near.similarity)
        {
            return Err((SIMILARITY.to_owned(), not_alike(near.similarity, LEAST_SIMILARITY)));
        }
        let lists = [("unique", self.unique.iter().any(Vec::is_empty))];
        let near = self.near_duplicates.as_ref().is_some_and(|near| near.columns.is_empty());
        let depends = self.depends.iter().any(|dependency| dependency.on.is_empty());
        for (field, is_empty) in
            lists.into_iter().chain([("near_duplicates.columns", near), ("depends.on", depends)])
        {
            if is_empty {
                return Err((field.to_owned(), "names no column".to_owned()));
            }
        }
        if self.counts_tokens() && self.tokenizer.is_none() {
            let detail = "must name a model, because some rule counts tokens".to_owned();
            return Err(("tokenizer".to_owned(), detail));
        }
        Ok(())
    }
}

/// The tokenizer that the contract of a dataset needs, when some rule counts tokens: that of `contract`, or of the
/// installed one when it is `None`.
///
/// # Errors
/// Those of a contract that cannot be read.
pub fn tokenizer_of(
    home: &DataHome,
    name: &str,
    contract: Option<&Path>,
) -> Result<Option<String>, DataError> {
    let path = match contract {
        Some(path) => Some(path.to_owned()),
        None => home.dataset(name)?.installed_contract(),
    };
    let Some(path) = path else { return Ok(None) };
    let terms = Contract::load(&path)?.terms;
    Ok(terms.tokenizer.clone().filter(|_| terms.counts_tokens()))
}
