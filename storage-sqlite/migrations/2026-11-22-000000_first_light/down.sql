-- Migrations are only ever added: a store is taken back to before its first one by deleting its file.
SELECT 1;
