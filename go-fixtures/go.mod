module gosleuth.test/fixtures

go 1.19
