//! Values as PostgreSQL's types, and back.
//!
//! It must never round or cut a number in silence.

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::super::{Error, Result, Row, Value};

pub(super) fn references(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

pub(super) fn row(row: &tokio_postgres::Row) -> Result<Row> {
    let values = row.columns().iter().enumerate().map(|(i, column)| {
        let read = match *column.type_() {
            Type::INT8 => row.try_get(i).map(|v: Option<i64>| v.map(Value::Int)),
            Type::INT4 => row.try_get(i).map(|v: Option<i32>| v.map(|n| Value::Int(n.into()))),
            Type::FLOAT8 => row.try_get(i).map(|v: Option<f64>| v.map(Value::Real)),
            Type::BYTEA => row.try_get(i).map(|v: Option<Vec<u8>>| v.map(Value::Blob)),
            _ => row.try_get(i).map(|v: Option<String>| v.map(Value::Text)),
        };
        let read = read.map_err(|error| Error::conversion(i, error))?;
        Ok(read.unwrap_or(Value::Null))
    });
    values.collect::<Result<_>>().map(Row)
}

impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Int(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Value::Int(number) if *ty == Type::FLOAT8 => (*number as f64).to_sql(ty, out),
            Value::Int(number) => number.to_sql(ty, out),
            Value::Real(number) => number.to_sql(ty, out),
            // The one character that PostgreSQL's texts cannot hold.
            Value::Text(text) if text.contains('\0') => {
                text.replace('\0', "\u{fffd}").to_sql(ty, out)
            }
            Value::Text(text) => text.to_sql(ty, out),
            Value::Blob(bytes) => bytes.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::INT4, Type::FLOAT8, Type::TEXT, Type::VARCHAR, Type::BYTEA].contains(ty)
    }

    to_sql_checked!();
}
