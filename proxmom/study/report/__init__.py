"""What the runs of studies say: tables in the terminal, a page with pictures, CSV and Parquet."""
