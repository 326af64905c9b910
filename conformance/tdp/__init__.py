"""The TDP MMU below and between the statements: roots, tables that are linked and taken out, who may overtake."""
