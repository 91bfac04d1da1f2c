-- Migrations are only ever added: there is no way back but a backup.
SELECT 1;
