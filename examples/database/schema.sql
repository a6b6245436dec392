-- Once, by the database's owner. The agent's own role may add orders and read them, and nothing else.
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    article text NOT NULL CHECK (article IN ('apples', 'bread', 'cheese')),
    amount integer NOT NULL CHECK (amount BETWEEN 1 AND 100),
    idempotency_key text NOT NULL UNIQUE,
    placed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_of_customer ON orders (customer, id DESC);
CREATE ROLE order_desk LOGIN; -- its password: \password order_desk
GRANT SELECT, INSERT ON orders TO order_desk;
