//! JSON schemas of types that are read by hand.

/// Gives a type the schema that the body says, which sees the schema generator under the name given.
macro_rules! schema_of {
    ($type:ty, |$generator:ident| { $($json:tt)* }) => {
        $crate::config::schema_of::schema_of!(
            $type,
            |$generator| schemars::json_schema!({ $($json)* })
        );
    };
    ($type:ty, |$generator:ident| $schema:expr) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema($generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $schema
            }
        }
    };
}

pub(crate) use schema_of;
